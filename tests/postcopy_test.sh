#!/bin/sh
# load --postcopy against a strict destination (tools/rpclient.c, which has QEMU's rules): order of
# commands, every host page once and whole, requests first, and clean ends in every mishap.

. "$(dirname "$0")/lib.sh"

# The destination has in the end what was saved, and nothing else.
test_every_page_arrives() {
	while read -r options; do
		mk s --seed=3 $options
		save i s --cluster-size=64K
		pages_of --rest=rest1 <s | grep -v ' zero$' | sort >want
		for mode in --postcopy -p1 --postcopy=60 --postcopy=99 --postcopy=100; do
			for client in "" "--requests=200 --burst=8 --repeat --before-run" "--all --burst=3"; do
				serve --dump --rest=rest2 --seed=2 $client -- $mode load i
				grep -v ' zero$' out | grep -v '^pages ' | sort >got
				assertTrue "$options, $mode, $client: pages" "cmp want got"
				head -c "$(size_of rest2)" rest1 >rest
				assertTrue "$options, $mode, $client: all else" "cmp rest rest2"
				# The description of the devices, with its head, is left out.
				case $(($(size_of rest1) - $(size_of rest2))) in
				0 | 100005) ;;
				*) fail "$options, $mode, $client: lengths" ;;
				esac
			done
		done
	done <<-'END'

		--shuffle --block=a:2000 --block=b:1
		--kind=ordinary --passes=2 --late-zero=20
		--block=m:1
		--block=m:1 --zero=100
		--absent=60
		--absent=100
		--zero=100
		--zero=0 --block=a:600
		--page-size=1024 --page-bits --block=a:2000 --block=b:4 --zero=50 --shuffle
		--page-size=2048 --page-bits --block=a:2000 --zero=0
		--kind=ordinary --iterable=dirty-bitmap --early --uuid
		--json=0
	END
}

test_any_number_of_threads_and_direct_io() {
	mk s --block=a:4000 --shuffle
	save i s
	for options in --aio=threads,0 --aio=threads,1 --aio=threads,16 -n; do
		serve --requests=300 --burst=5 --repeat --before-run -- $options --postcopy load i
	done
}

# What stands before a page asked for: the pipe, what the destination has read already, and what
# may be sent while the page is being read from the file. Also with a slow destination.
test_requests_come_first() {
	mk s --block=a:20000 --zero=0
	save i s
	# Under a sanitizer a request takes too long to be read.
	ahead=${SANITIZED:+--max-ahead=100000000}
	serve --requests=500 --burst=4 ${ahead:---max-ahead=176128} -- --postcopy load i
	serve --requests=300 --read-delay=300 ${ahead:---max-ahead=176128} -- --postcopy load i
}

# Neighbours come along, zero ones too, and the push runs before a guest that goes through its memory:
# few of its requests are for pages that are not on their way already.
test_requests_in_a_row() {
	mk s --block=a:20000 --zero=50
	save i s
	serve --requests=300 --pages=sequential --read-delay=1000 -- --trace --postcopy load i
	answered=$(sed -n 's/.*; \([0-9]*\) answered first$/\1/p' err)
	[ "${SANITIZED-}" ] || assertTrue "$answered of 300 were needed" "[ ${answered:-300} -lt 100 ]"
}

# Units that lie here and there fill a batch before a host page of a few pages has an end.
test_host_pages_of_a_compressed_image() {
	needs_zstd || return 0
	while read -r size host options; do
		mk s --shuffle --seed=5 --page-size=$size --page-bits $options
		save i s --compress=zstd
		pages_of <s | grep -v ' zero$' | sort >want
		for seed in 1 2; do
			serve --dump --page-size=$size --host-page=$host --requests=200 --seed=$seed \
				-- --host-page-size=$host --postcopy load i
			grep -v -e ' zero$' -e '^pages ' out | sort >got
			assertTrue "$size, $host, $options, $seed" "cmp want got"
		done
	done <<-'END'
		4096 16384 --block=a:4000 --zero=0
		4096 16384 --block=a:2000 --block=b:2000
		4096 65536 --block=a:4000
		1024 4096 --block=a:4000 --zero=0
		1024 16384 --block=a:4000
	END
}

# A guest that is recorded is pushed to only when it is quiet; but what is asked for then does not wait
# for the rest of a huge page that was begun.
test_a_recorded_guest_does_not_wait_for_a_huge_page() {
	[ -z "${SANITIZED-}" ] || skip "promptness" || return 0
	mk s --block=a:8192 --zero=0
	save i s
	python3 - "$SNAP" <<-'END'
		import os, select, struct, subprocess, sys, time
		HUGE, LAST = 2 << 20, 30 << 20
		p = subprocess.Popen([sys.argv[1], "--postcopy", "--record=hot", "--host-page-size=2M", "load",
		                      "i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
		def read(seconds):
		    ready = select.select([p.stdout], [], [], seconds)[0]
		    return os.read(p.stdout.fileno(), 65536) if ready else b""
		while read(0.3):                                # up to RUN
		    pass
		os.write(p.stdin.fileno(), struct.pack(">HHI", 2, 4, 0x51534e50))       # the devices are loaded
		begun = 0
		while begun < 100000:                           # quiet: the push begins
		    data = read(5)
		    if not data:
		        sys.exit("no push")
		    begun += len(data)
		os.write(p.stdin.fileno(), struct.pack(">HHQI2s", 3, 14, LAST, HUGE, b"\1a"))
		since, kept = time.monotonic(), b""
		while not any(struct.pack(">Q", LAST | flags) in kept for flags in (0x08, 0x28)):
		    kept = kept[-8:] + (read(5) or sys.exit("no page"))
		    if time.monotonic() - since > 0.6:
		        sys.exit("after %.1f s" % (time.monotonic() - since))
		p.kill()
	END
	assertEquals "the page asked for" 0 $?
}

# The neighbours of a page asked for come before the rest: one request, far from where the push is.
test_neighbours_come_along() {
	mk s --block=a:20000 --zero=0
	save i s
	serve --requests=1 --seed=3 --hangup=2000 --dump --expect-exit=1 -- --postcopy load i
	near=$(sed -n 's/^a \([0-9a-f]*\)000 .*/\1/p' out | python3 -c '
import sys
print(sum(int(page, 16) >= 4000 for page in sys.stdin))')
	assertEquals "pages, as many as a read takes" 16 "$near"
}

# Where requests are scattered, what is in the pipe only keeps them waiting: it is made short. How long
# a request took is told.
test_scattered_requests_find_a_short_pipe() {
	[ "$(uname)" = Linux ] || skip "pipe: its size is the system's" || return 0
	[ -z "${SANITIZED-}" ] || skip "pipe: a request takes too long to be read" ||
		return 0
	mk s --block=a:20000 --zero=0
	save i s
	serve --latency --requests=500 --read-delay=300 -- --trace --postcopy load i
	ahead=$(sed -n 's/^ahead bytes .* p50 \([0-9]*\) .*/\1/p' out)
	assertTrue "scattered: $ahead bytes before a page" "[ ${ahead:-99999} -le 45056 ]"
	assertContains "$(cat err)" "from a request to its page in the pipe: p50 "
}

# The last pages lie behind more slots than the push passes by at a time, and nobody asks for them.
test_the_last_pages_come_unasked() {
	mk s --block=a:20000 --zero=0
	save i s
	for missing in 1 3 10; do
		"$TOOLS/rpclient" --requests=0 --hangup=$((20000 - missing)) \
			--resume="exec '$SNAP' --resume load i" "$SNAP" --postcopy load i >out 2>err
		ended 0 $? "$missing: $(cat out err)"
	done
}

# Milliseconds of some clock; not every date knows them.
now() {
	python3 -c 'import time; print(int(time.time() * 1000))'
}

test_rate_limits_the_push() {
	mk s --block=a:1000 --zero=0 --json=1000
	save i s
	begin=$(now)
	serve --requests=1 -- --postcopy --rate=2M load i
	took=$(($(now) - begin))
	assertTrue "4 MB at 2 MB/s took $took ms" "[ $took -ge 1500 ]"
	mk s --block=a:4000 --zero=0 --json=1000 --page-size=1024 --page-bits
	save j s
	begin=$(now)
	serve --requests=1 -- --postcopy --rate=2M load j
	took=$(($(now) - begin))
	assertTrue "the same in smaller pages took $took ms" "[ $took -ge 1500 ]"
}

# Hostile and broken peers: a message, exit 2, no crash, no hang.
test_bad_messages() {
	mk s --block=a:2000
	save i s
	while read -r odd words; do
		serve --odd="$odd" --expect-exit=2 -- --postcopy load i
		assertContains "$odd" "$(grep -v UUID err)" "qemu-snap: return path: $words"
	done <<-'END'
		outside request for pages outside of their block
		overflow request for pages outside of their block
		too-long request for pages outside of their block
		zero-length request for pages outside of their block
		astride request for
		unknown-block request for a page of an unknown block
		no-block request for a page of an unknown block
		short-id message of wrong length
		long-pong message of wrong length
		long-switchover message of wrong length
		short-request request of wrong length
		shorter-request request of wrong length
		nul name with a NUL byte in it
		unknown unknown message
	END
	serve --garbage --expect-exit=2 -- --postcopy load i
	assertContains "$(cat err)" "qemu-snap: return path: "
	"$SNAP" --postcopy load i <. >out 2>err
	ended 1 $? "a directory"
	assertContains "$(cat err)" "qemu-snap: return path: read: Is a directory"
}

# Messages that come in several parts, and one that a destination may send and that nobody needs.
test_messages_in_pieces() {
	mk s --block=a:2000 --block=b:70 --zero=0
	save i s
	serve --pieces --switchover --requests=200 -- --postcopy load i
	assertContains "$(cat out)" "pages 2070 "
	"$TOOLS/rpclient" --pieces --requests=20 --hangup=500 \
		--resume="exec '$SNAP' --resume load i" "$SNAP" --postcopy load i >out 2>err
	ended 0 $? "$(cat err)"
	assertContains "$(cat out)" "pages 2070 "
}

# Of the pages that are there an answer tells that is not to be believed.
test_bad_answers_to_a_resume() {
	mk s --block=a:2000 --block=b:70
	save i s
	while read -r odd exit words; do
		"$TOOLS/rpclient" --requests=20 --hangup=500 --odd="$odd" --expect-exit="$exit" \
			--resume="exec '$SNAP' --resume load i" "$SNAP" --postcopy load i >out 2>err
		ended 0 $? "$odd: $(cat out err)"
		assertEquals "$odd" "qemu-snap: $words" "$(grep -v UUID err)"
	done <<-'END'
		unasked 2 return path: bitmap that was not asked for
		nowhere 2 return path: bitmap of an unknown block
		name 2 return path: message of wrong length
		length 2 return path: block a is not the one of this image
		cut 1 return path: ends too early
		end 2 return path: bitmap does not end where it should
		shut 1 the destination gave up (7)
	END
}

test_a_peer_that_goes_away() {
	mk s --block=a:20000
	save i s
	for n in 1 100 15000; do
		serve --hangup=$n --expect-exit=1 -- --postcopy load i
		assertContains "$n" "$(cat err)" "qemu-snap: the destination"
	done
	serve --stop-reading=300 --expect-exit=1 -- --postcopy load i
	serve --no-shut --expect-exit=1 -- --postcopy load i
	assertContains "$(cat err)" "qemu-snap: the destination closed the return path"
	serve --shut=1 --expect-exit=1 -- --postcopy load i
	assertContains "$(cat err)" "qemu-snap: the destination reports a failure (1)"
}

test_blocks_that_are_not_whole_host_pages() {
	[ "$(getconf PAGESIZE)" -gt 1024 ] || skip "a host with pages of 1024 bytes" || return 0
	mk s --page-size=1024 --page-bits --block=a:4001
	save i s
	serve --expect-exit=1 -- --postcopy load i
	assertContains "$(cat err)" "precopy only"
}

# QEMU itself says so, too: "Target page size bigger than host page size".
test_pages_larger_than_those_of_the_host() {
	size=$(getconf PAGESIZE)
	[ "$size" -lt 65536 ] || skip "there are no pages larger than those of this host" || return 0
	mk s --page-size=$((2 * size)) --page-bits --block=a:40
	save i s
	serve --expect-exit=1 -- --postcopy load i
	assertContains "$(cat err)" "pages of $((2 * size)) bytes on a host with pages of $size: QEMU loads this in precopy"
	holds_stream i s
}

# Huge pages: each goes out whole and in one piece, and the list of blocks tells their size.
test_pages_of_the_destination() {
	while IFS='|' read -r mk ours theirs; do
		mk s --seed=4 --zero=40 --json=1000 $mk
		save i s
		pages_of <s | grep -v ' zero$' | sort >want
		for mode in --postcopy --postcopy=40 --postcopy=100; do
			for client in --requests=20 "--requests=20 --before-run --burst=3 --repeat"; do
				serve --dump $client $theirs -- $ours $mode load i
				grep -v ' zero$' out | grep -v '^pages ' | sort >got
				assertTrue "$mk, $mode, $client" "cmp want got"
			done
		done
	done <<-'END'
		--block=a:16384 --block=b:1 --shuffle|--host-page-size=2M|--host-page=a=2097152
		--block=b:7 --block=a:4096 --block=c:4096|--host-page-size=64K|--host-page=a=65536 --host-page=c=65536
		--block=a:1024 --block=b:4096 --absent=50|--host-page-size=a=2M|--host-page=a=2097152
		--block=a=b:1024 --block=b:4096|--host-page-size=2M --host-page-size=a=b=1M --host-page-size=b=8K --host-page-size=b=16K|--host-page=a=b=1048576 --host-page=b=16384
		--page-size=1024 --page-bits --block=a:8192|--host-page-size=2M|--host-page=a=2097152
		--block=a:8192|--host-page-size=4K|
	END
	[ "$(getconf PAGESIZE)" = 4096 ] || skip "refusals: a host with other pages" || return 0
	mk s --block=a:1025 --block=b:512
	save i s
	while IFS='|' read -r says ours; do
		serve --expect-exit=1 -- $ours --postcopy load i
		assertContains "$(cat err)" "$says"
	done <<-'END'
		i: block a is not whole pages of 2097152 bytes: QEMU loads this in precopy only|--host-page-size=2M
		i: has no block c; info tells those it has|--host-page-size=b=2M --host-page-size=c=2M
		--host-page-size: 2048 is less than this system's 4096|--host-page-size=b=2K
	END
}

# A destination whose pages are others than was said is not fed pieces of them, and can be taken up
# once more.
test_pages_of_the_destination_after_a_resume() {
	mk s --block=a:16384 --zero=40 --json=1000
	save i s
	set -- --requests=20 --host-page=a=2097152 --hangup=2000
	wrong="'$SNAP' --resume load i 2>said"
	right="exec '$SNAP' --resume --host-page-size=2M load i"
	"$TOOLS/rpclient" "$@" --expect-exit=2 --resume="$wrong" \
		"$SNAP" --postcopy --host-page-size=2M load i >out 2>err
	assertContains "$(cat said)" "request for 2097152 bytes of block a at 0x"
	assertContains "$(cat said)" ", where pages of 4096 are known: see --host-page-size"
	"$TOOLS/rpclient" "$@" --dump --resume="$right" \
		"$SNAP" --postcopy --host-page-size=2M load i >out 2>err
	ended 0 $? "$(cat out err)"
	pages_of <s | grep -v ' zero$' | sort >want
	grep -v ' zero$' out | grep -v '^pages ' | sort >got
	assertTrue "pages" "cmp want got"
}

# Small pages taken for large ones would be taken for sent when a part of them is there.
test_large_pages_that_are_none_after_a_resume() {
	mk s --block=mem:8192 --block=vga:64 --zero=0
	save i s
	for size in 64K 2M; do
		"$TOOLS/rpclient" --requests=0 --hangup=3000 --expect-exit=2 \
			--resume="exec '$SNAP' --resume --host-page-size=$size load i" \
			"$SNAP" --rate=20M --postcopy load i >out 2>err
		ended 0 $? "$(cat out err)"
		assertContains "$(cat err)" "bytes are there of block mem: see --host-page-size"
	done
}

# A page that is damaged is never sent; the service ends, and the message names it.
test_a_damaged_page_is_not_served() {
	mk s --block=a:2000 --zero=0
	save i s
	python3 - i <<-'END'
		import sys
		f = open(sys.argv[1], "r+b")
		f.seek(4096 + 1500 * 4096)
		f.write(b"damaged" * 10)
	END
	for client in "--requests=1" "--all --burst=2"; do
		"$TOOLS/rpclient" $client --dump --expect-exit=2 "$SNAP" --postcopy load i >out 2>err
		ended 0 $? "$(cat err)"
		assertContains "$(cat err)" "block a offset 0x5dc000: page fails its checksum"
		assertNotContains "$(cat out)" "a 5dc000 "
		assertNotContains "$(cat out)" "a 0x5dc000 "
	done
}

# Images whose checksums are right, and whose parts contradict each other where only a load in postcopy
# looks: fewer pages than there are, and another list of blocks in the stream.
test_images_that_contradict_themselves() {
	mk s --block=a:300 --zero=0
	save b s
	save i s --base=b
	python3 - "$TOOLS" <<-'END'
		import sys
		sys.path.insert(0, sys.argv[1])
		sys.dont_write_bytecode = True
		import badimage
		def lie(name, change):
		    image = badimage.Image(open("i", "rb").read())
		    change(image)
		    image.seal()
		    image.write(name)
		def other_block(image):
		    prologue = image.section("prologue").body
		    prologue[prologue.index(b"\3ram") + 4 + 8 + 8 + 1] ^= 1
		lie("fewer", lambda image: image.add("foot", 80, "Q", -1))
		lie("other", other_block)
	END
	"$TOOLS/rpclient" --all --expect-exit=2 "$SNAP" --postcopy load fewer >out 2>err
	ended 0 $? "$(cat err)"
	assertContains "$(cat err)" "fewer: page table and unit table do not agree"
	run "$SNAP" --postcopy load other
	assertEquals 2 "$status"
	assertContains "$(cat err)" "other: the list of its blocks is not that of its stream"
	run "$SNAP" export --to=mapped-ram other n
	expect 2 "qemu-snap: other: the list of its blocks is not that of its stream"
	assertFalse "a file" "[ -e n ]"
}

. "$shunit"
