#!/bin/sh
# save: what goes in is what is in the image, whatever the stream looks like and however many
# threads there are; the image is dense; what cannot be stored is refused by name, the source
# drained, and nothing left behind.

. "$(dirname "$0")/lib.sh"

# Streams of all shapes, by two readers that share no code with the program.
test_streams_of_all_shapes() {
	while read -r options; do
		mk s --seed=7 $options
		save i s --cluster-size=64K
		holds_stream i s
	done <<-'END'

		--shuffle
		--kind=ordinary
		--kind=ordinary --passes=3 --late-zero=20 --late-data=20
		--kind=ordinary --return-path --switchover
		--kind=ordinary --ignore-shared
		--zerodata=30
		--absent=50
		--absent=100
		--zero=100
		--zerodata=100
		--zero=0
		--block=m:1
		--block=m:1 --zero=100
		--block=a:1 --block=b:1 --block=c:8191 --block=d:8193
		--page-size=1024 --page-bits
		--page-size=2048 --page-bits --shuffle
		--page-size=16384 --page-bits
		--page-size=65536 --page-bits --block=x:40
		--early --uuid
		--kind=ordinary --iterable=dirty-bitmap
		--kind=ordinary --iterable=htab
		--kind=ordinary --iterable=stattrib
		--json=0
		--devices=1
		--section=1
		--section=1000
	END
}

test_page_size_from_the_user() {
	mk s --page-size=32768 --block=x:40
	run_on s "$SNAP" save i
	assertEquals 2 "$status"
	assertContains "$(cat err)" "; see --page-size"
	assertNotContains "$(ls)" "i"
	save i s --page-size=32K
	holds_stream i s --page-size=32768
	mk s --page-size=8192 --page-bits --block=x:40
	run_on s "$SNAP" -S 4K save i
	assertEquals 2 "$status"
	assertContains "$(cat err)" "--page-size is 4096, but the stream says 8192"
	mk s --json-page-size=8192
	run_on s "$SNAP" save j
	assertEquals 2 "$status"
	assertContains "$(cat err)" "use --page-size"
}

# evenstream KIND: pages of 4 KiB that begin with 20 whose numbers are even, of data or zero, out of
# turn; then come all others.
evenstream() {
	python3 - "$1" <<-'END'
		import random, struct, sys
		sid, end = struct.pack(">I", 1), b"\x7e" + struct.pack(">I", 1)
		def word(n): return struct.pack(">Q", n)
		def page(n, data):
		    return word(n * 4096 | (8 if data else 2)) + b"\1m" + (bytes([n & 255]) * 4096 if data else b"\0")
		even = [n * 2 for n in random.Random(1).sample(range(500), 20)]
		out = [b"QEVM\0\0\0\3\7\0\0\0\4none\1" + sid + b"\3ram" + struct.pack(">II", 0, 4),
		    word(1000 << 12 | 4) + b"\1m" + word(1000 << 12) + word(16) + end + b"\2" + sid]
		out += [page(n, sys.argv[1] == "data") for n in even]
		out += [page(n, True) for n in range(1000) if n not in even]
		json = b'{"page_size": 4096, "devices": [{"name": "d", "instance_id": 0}]}'
		out += [word(16) + end + b"\4" + sid[:3] + b"\7\1d" + struct.pack(">II", 0, 1) + b"1234\x7e\0\0\0\7",
		    b"\0\6" + struct.pack(">I", len(json)) + json]
		sys.stdout.buffer.write(b"".join(out))
	END
}

# Streams of targets that have but one page size do not tell it before their end.
test_page_size_from_the_first_pages() {
	while read -r size options; do
		mk s --page-size=$size --block=x:41 --block=y:8 $options
		save i s
		holds_stream i s --page-size=$size
	done <<-'END'
		1024
		1024 --shuffle
		8192
		8192 --shuffle
		8192 --zero=100
		8192 --zero=0
		8192 --absent=30
		8192 --kind=ordinary --return-path
		8192 --section=1
		16384
	END
	# A guest begins with pages of its own, here and there.
	for first in data zero; do
		evenstream $first >s
		save i s
		holds_stream i s --page-size=4096
	done
	# As few as can tell, and too few.
	mk s --page-size=8192 --block=x:3 --zero=0
	save i s
	holds_stream i s --page-size=8192
	mk s --page-size=8192 --block=x:1 --zero=0
	run_on s "$SNAP" save j
	assertEquals 2 "$status"
	assertContains "$(cat err)" "; see --page-size"
	# An image has no pages as small as these.
	mk s --page-size=256 --block=x:400
	run_on s "$SNAP" save j
	assertEquals 2 "$status"
	assertContains "$(cat err)" "target pages of 256 bytes, less than 1024: cannot be stored"
}

# Whatever the number of threads, the cache mode, and who reads how fast: the same bytes.
test_same_bytes_for_any_number_of_threads() {
	mk s --kind=ordinary --passes=4 --late-zero=30 --late-data=10 --block=a:3000 --block=b:77
	save first s --reproducible --cluster-size=64K --aio=threads,0
	for options in --aio=threads,1 --aio=threads,2 --aio=threads,16 --cache=none \
	    --cache=writethrough --cache=directsync; do
		save i s --reproducible --cluster-size=64K $options
		assertTrue "$options" "cmp first i"
	done
	"$TOOLS/mkstream" --kind=ordinary --passes=4 --late-zero=30 --late-data=10 --block=a:3000 \
		--block=b:77 | "$SNAP" --reproducible --cluster-size=64K save i
	assertTrue "through a pipe" "cmp first i"
}

test_two_saves_have_two_names_and_times() {
	mk s
	save i s
	save j s
	"$SNAP" info --json i >ii
	"$SNAP" info --json j >jj
	assertNotEquals "$(grep uuid ii)" "$(grep uuid jj)"
	assertContains "$(grep '"time"' ii)" "$(date -u +%Y-%m-)"
}

# bound IMAGE PAGE_SIZE: the promise of the format, and no holes.
bound() {
	"$SNAP" info --json "$1" >info.json
	python3 - "$(size_of "$1")" "$(allocated "$1")" "$2" <<-'END'
		import json, sys
		size, allocated, page = (int(a) for a in sys.argv[1:])
		pages = json.load(open("info.json"))["pages"]
		most = pages["stored"] * (page + 40) + pages["total"] // 2 + (1 << 20)
		if size > most or allocated < 0.99 * size:
		    sys.exit("size %d, at most %d, allocated %d" % (size, most, allocated))
	END
	assertEquals 0 $?
}

test_dense() {
	mk s --block=a:20000 --zero=30
	save i s
	bound i 4096
	mk s --block=a:20000 --page-size=1024 --page-bits --zero=30
	save i s
	bound i 1024
	# All pages come as data, half of them later as zero: the room is given back.
	mk s --kind=ordinary --passes=2 --block=a:20000 --zero=0 --late-zero=50
	save i s
	bound i 4096
	mk s --block=a:20000 --zero=0
	save once s
	mk s --kind=ordinary --passes=4 --block=a:20000 --zero=0
	save four s
	bound four 4096
	assertTrue "four copies sent: $(size_of four) for $(size_of once)" \
		"[ $(size_of four) -le $(($(size_of once) * 11 / 10)) ]"
}

test_peak_memory() {
	[ -z "${SANITIZED-}" ] || skip "memory: a sanitizer needs some itself" || return 0
	for guest in "--block=m:131072 --zero=20" "--block=m:16777216 --zero=99"; do
		"$TOOLS/mkstream" $guest | python3 "$TOOLS/peak.py" peak "$SNAP" save i 2>err
		ended 0 $? "$(cat err)"
		"$SNAP" info --json i >info.json
		most=$(python3 -c "
import json
p = json.load(open('info.json'))['pages']
print(65536 + (16 * p['stored'] + p['total']) // 1024)")
		assertTrue "$guest: $(cat peak) KiB, at most $most" "[ $(cat peak) -le $most ]"
	done
}

# refuse KIND WORDS: exit 2, these words, all of the source read up to the devices, nothing left.
refuse() {
	kind=$1
	shift
	"$TOOLS/mkstream" --bad="$kind" --json=1000 --drained=fed "$@" | "$SNAP" save i 2>err
	assertEquals "$kind: status" 2 $?
	assertEquals "$kind: one message" 1 "$(wc -l <err)"
	assertContains "$kind" "$(cat err)" "$words"
	assertTrue "$kind: drained" "[ -f fed ]"
	rm -f fed
	assertEquals "$kind: nothing left" "err words" "$(echo *)"
}

test_what_cannot_be_stored_is_refused_by_name() {
	while read -r kind words; do
		echo "$words" >words
		refuse "$kind"
	done <<-'END'
		magic not a migration stream
		version stream of version
		no-config send-configuration=off cannot be stored
		no-footer send-section-footer=off cannot be stored
		mapped-ram mapped-ram
		unknown-cap which is not known here
		unknown-section section foo: cannot be stored, its length is not known
		vfio section 0000:00:05.0/vfio: cannot be stored: take this device from the guest
		block-migration section block: cannot be stored: switch the capability block off
		ram-version section ram: version
		ram-twice section ram: begins twice
		block-twice is there twice
		block-sum do not add up
		block-odd is not whole pages
		block-empty-name empty name
		block-nul NUL byte
		advise postcopy-ram on: switch it off
		early-unknown a device before the RAM
		no-block does not name its block
		xbzrle XBZRLE
		compress COMPRESS_PAGE
		multifd MULTIFD_FLUSH
		hook RDMA
		unknown-flag unknown flags
		fill filled with
		unknown-block unknown block
		outside outside of block
		wrong-footer footer of section
		unknown-element unknown element
		part-unknown never began
		packaged postcopy, which cannot be stored
		unknown-command unknown command
		eof-early without devices
	END
}

# The smallest stream with one field changed, and what is said of it.
test_each_field_that_cannot_be() {
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >good
	python3 - <<-'END'
		import struct
		good = open("good", "rb").read()
		ram, full = good.index(b"\1\0\0\0\1\3ram"), good.index(b"\4\0\0\0\7\1d")

		def name(text):
		    return bytes([len(text)]) + text

		def word(*values):
		    return b"".join(struct.pack(">Q", v) for v in values)

		def swap(old, new, words):
		    assert good.count(old) == 1, old
		    bad.append((good.replace(old, new), words))

		def insert(at, piece, words):
		    bad.append((good[:at] + piece + good[at:], words))

		def section(text, body, version=1, sid=9, kind=b"\1"):
		    return (kind + struct.pack(">I", sid) + name(text) +
		            struct.pack(">II", 0, version) + body + b"\x7e" + struct.pack(">I", sid))

		bad = []
		bits = b"configuration/target-page-bits\0\0\0\1\0\0\0\n"
		swap(b"\7\0\0\0\4none", b"\7\0\0\1\0" + bytes(256), "machine name of 256 bytes")
		swap(bits[30:], b"\0\0\0\2\0\0\0\n",
		     "section configuration/target-page-bits: unknown version 2")
		swap(bits, bits[:-1] + b"\x09", "target pages of 2^9 bytes")
		swap(bits, bits[:-1] + b"\x11", "target pages of 2^17 bytes")
		swap(bits[:30], bits[:29] + b"z",
		     "section configuration/target-page-bitz: not known")
		caps = b"\5" + name(b"configuration/capabilities") + b"\0\0\0\1\0\0\0\1"
		insert(ram, caps + name(b""), "empty name")
		swap(word(16) + b"\x7e\0\0\0\1\2", word(16) + b"\x7d\0\0\0\1\2",
		     "section footer expected, found byte 0x7d")
		total, block = word(2048 | 4), name(b"m") + word(2048)
		swap(total, word(2048 | 8), "section ram: no list of blocks")
		swap(total + block, word(4), "section ram: no blocks")
		swap(total, word(1024 | 4), "RAM blocks do not add up to the total")
		swap(block, name(b"m") + word(0), "RAM blocks do not add up to the total")
		swap(block + word(16), block + word(17), "section ram: list of blocks does not end")
		swap(total + block, word(1 << 50 | 4) + name(b"m") + word(1 << 50),
		     "more RAM than an image can hold")
		swap(total + block, word(2048 * 2000 | 4) +
		     b"".join(name(b"%d" % i) + word(2048) for i in range(2000)),
		     "more RAM blocks than an image can describe")
		insert(ram, caps + name(b"x-ignore-shared") +
		       section(b"ram", total + block + word(2 ** 64 - 1, 16), 4),
		       "RAM block m: at no possible address")
		bitmap, early = b"dirty-bitmap", b"0/virtio-mem-device-early"
		insert(ram, section(bitmap, b"\x80"), "section dirty-bitmap: unknown flags")
		insert(ram, section(bitmap, b"\0"), "section dirty-bitmap: unknown chunk")
		insert(ram, section(bitmap, b"\x40" + bytes(12) + word(17 << 20) + bytes(17 << 20)),
		       "more than 16777216 bytes besides RAM pages and devices")
		insert(ram, section(b"s390-storage_attributes", word(4)),
		       "section s390-storage_attributes: unknown record")
		insert(ram, b"".join(section(bitmap, b"\1", 1, 100 + n) for n in range(17)),
		       "more iterable sections than known here")
		insert(full, section(bitmap, b"\1"), "a section begins after the first pages")
		insert(ram, section(early, bytes(36), 2, 9, b"\4"),
		       "section %s: a device before the RAM, not known here" % early.decode())
		for blocks, size in (0, 0), (8 * ((16 << 20) + 1), 1):
		    insert(ram, section(early, word(0, blocks, size) + bytes(12), 1, 9, b"\4"),
		           "section %s: damaged" % early.decode())
		swap(word(1024 | 2), word(2048 | 2), "section ram: page outside of block m")
		for n, (stream, words) in enumerate(bad):
		    open("s%d" % n, "wb").write(stream)
		    open("words", "a").write(words + "\n")
	END
	n=0
	while read -r words; do
		run_on s$n "$SNAP" save i
		assertEquals "$words: status" 2 $status
		assertEquals "$words" "$(sed 's/^qemu-snap: stream offset [0-9]*: //' err)"
		n=$((n + 1))
	done <words
	assertEquals 25 $n
}

test_the_longest_machine_name() {
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z |
		python3 -c '
import sys
old, new = b"\7\0\0\0\4none", b"\7\0\0\0\xff" + b"n" * 255
sys.stdout.buffer.write(sys.stdin.buffer.read().replace(old, new))' >s
	assertEquals 255 "$(tr -cd n <s | head -c 255 | wc -c | tr -d ' ')"
	save i s
	holds_stream i s
}

test_the_longest_block_name() {
	n=$(printf '%0255d' 0)
	for zero in 0 100; do
		mk s --block="$n":3 --zero=$zero
		save i s
		holds_stream i s
		rm i
	done
}

test_background_snapshot_with_ignored_shared_memory() {
	mk s --ignore-shared
	run_on s "$SNAP" save i
	assertEquals 2 "$status"
	assertContains "$(cat err)" "x-ignore-shared"
	mk s --ignore-shared --kind=ordinary
	save i s
	assertContains "$("$SNAP" info i)" "precopy only"
	run "$SNAP" --postcopy load i
	assertEquals 1 "$status"
	assertContains "$(cat err)" "in precopy only"
}

# A stream may end anywhere: with the source, or by migrate_cancel.
test_a_cut_stream_is_refused() {
	mk s --json=1000 --devices=3 --shuffle --kind=ordinary --iterable=htab --iterable=stattrib
	n=$(size_of s)
	printf 'qemu-snap image\nold\n' >i
	for at in 0 1 7 8 9 $(seq 12 5 400) 2000 $((n / 3)) $((n / 2)) $((n - 20000)) $((n - 3000)) \
	    $((n - 1001)) $((n - 900)) $((n - 2)) $((n - 1)); do
		[ $at -ge 0 ] || continue
		head -c $at s >cut
		run_on cut "$SNAP" save i
		assertEquals "cut at $at of $n: $(cat err)" 2 "$status"
		assertEquals "cut at $at: old image" old "$(tail -n 1 i)"
	done
	assertEquals "cut err i out s" "$(echo *)"
}

# A disk on which the guest has room only if enough of it is zero may do: people are told.
test_little_room_is_told_of() {
	python3 "$TOOLS/pagestream.py" 4096 m:40000000000 0=r0 >s
	run_on s "$SNAP" save i
	assertEquals "$(cat err)" 0 "$status"
	assertContains "$(cat err)" \
		" MiB are free, and the guest has 156250000 MiB: room only if enough of it is zero"
	python3 "$TOOLS/pagestream.py" 4096 m:4 0=r0 >s
	run_on s "$SNAP" save i
	expect 0 ""
}

test_limit_of_size() {
	mk s --block=a:2000 --zero=0
	save good s
	printf 'qemu-snap image\nold\n' >i
	n=$(size_of good)
	for limit in 4K 100K 5M $((n - 1)) $((n - 4097)); do
		run_on s "$SNAP" -s $limit save i
		assertEquals "$limit" 1 "$status"
		assertContains "$(cat err)" "--image-size"
		assertEquals old "$(tail -n 1 i)"
	done
	save i s -s "$n"
	save i s --image-size=2T
	assertEquals "err good i out s" "$(echo *)"
}

# Nor is what gets the image's name while it is made.
test_what_appears_meanwhile_is_not_replaced() {
	mk s
	mkfifo come
	while IFS='|' read -r what make; do
		(
			dd bs=1000 count=1 2>/dev/null
			wait_for 10 sh -c 'ls i.part.* >/dev/null 2>&1'
			eval "$make"
			cat
		) <s >come &
		run_on come "$SNAP" save i
		expect 1 "qemu-snap: i: is there and is not a $what"
		wait
		assertEquals "$make" "come err i out s" "$(echo *)"
		assertFalse "$make: an image" "'$SNAP' check i"
		rm i
	done <<-'END'
		qemu-snap image: not replaced|echo precious >i
		regular file|ln -s nowhere i
		regular file|mkfifo i
	END
}

# A file that cannot be read may be anything: here somebody holds a lease on it.
test_what_cannot_be_read_is_not_replaced() {
	mk s
	echo precious >i
	python3 - "$SNAP" <<-'END'
		import fcntl, signal, subprocess, sys
		signal.signal(signal.SIGIO, signal.SIG_IGN)
		with open("i", "r+b") as f:
		    try:
		        fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
		    except (AttributeError, OSError):
		        sys.exit(77)
		    with open("s") as s, open("err", "w") as err:
		        sys.exit(subprocess.call([sys.argv[1], "save", "i"], stdin=s, stderr=err))
	END
	status=$?
	[ $status -ne 77 ] || skip "no leases on files here" || return 0
	assertEquals "$(cat err)" 1 $status
	assertContains "$(cat err)" "qemu-snap: i: cannot be read, and is not replaced: "
	assertEquals precious "$(cat i)"
}

test_what_is_no_file_is_refused() {
	mk s
	mkdir d
	mkfifo p
	ln -s nowhere l
	for name in d p l /dev/null; do
		run_on s "$SNAP" save "$name"
		expect 1 "qemu-snap: $name: is there and is not a regular file"
	done
	run_on s "$SNAP" save missing/i
	expect 1 "qemu-snap: missing/i: cannot be created: No such file or directory"
	assertEquals "d err l out p s" "$(echo *)"
}

# A slip of the hand must not cost a disk.
test_what_is_no_image_is_not_replaced() {
	mk s
	echo notes >notes
	for name in notes s; do
		cksum $name >before
		run_on s "$SNAP" save $name
		expect 1 "qemu-snap: $name: is there and is not a qemu-snap image: not replaced"
		assertEquals "$(cat before)" "$(cksum $name)"
	done
	: >empty
	save empty s
	run "$SNAP" check empty
	assertEquals 0 "$status"
}

test_without_syncs() {
	mk s
	run_on s "$SNAP" --cache=unsafe save i
	expect 0 "qemu-snap: i: written without syncs: a crash of the host may damage it"
	holds_stream i s
}

# A verb that is mistaken for another waits for what will never come: after a while it says so.
test_nothing_comes() {
	mk s
	{ sleep 11; cat s; } | "$SNAP" save i 2>err
	status=$?
	expect 0 "qemu-snap: save: nothing has come yet; in migrate_incoming the verb is load"
}

# Guest memory is secret.
test_only_the_owner_may_read() {
	mk s
	umask 0
	save i s
	umask 022
	case $(ls -l i) in
	-rw-------*) ;;
	*) fail "$(ls -l i)" ;;
	esac
}

test_stale_files_are_removed_and_live_ones_are_not() {
	mk s
	mkfifo pipe
	"$SNAP" save i <pipe 2>err1 &
	exec 3>pipe
	wait_for 10 sh -c 'ls i.part.* >/dev/null 2>&1'
	live=$(echo i.part.*)
	echo junk >i.part.1-0
	echo other >i.partner
	echo mine >i.part.2024-11-good
	run_on s "$SNAP" save i
	expect 0 "qemu-snap: i.part.1-0: removed, a dead save left it"
	assertEquals "$(printf '%s\n' i "$live" i.part.2024-11-good i.partner | sort)" "$(printf '%s\n' i* | sort)"
	cat s >&3
	exec 3>&-
	wait
	assertEquals "" "$(cat err1)"
	assertEquals "i i.part.2024-11-good i.partner" "$(echo i*)"
	run "$SNAP" check i
	assertEquals 0 "$status"
}

# The reader of a closed pipe, a file that is no stream, a terminal's absence.
test_odd_ends() {
	run "$SNAP" save i </dev/null
	expect 2 "qemu-snap: stream offset 0: nothing came: no migration stream"
	run_on /bin/sh "$SNAP" save i
	assertEquals 2 "$status"
	"$SNAP" save i <&- 2>err
	ended 1 $? "stdin closed: $(cat err)"
}

# begin_save: of the stream s, the first million bytes of which go to descriptor 3; sets pid.
begin_save() {
	mk s --block=a:3000 --json=1000 --devices=2
	mkfifo pipe
	"$SNAP" save i <pipe 2>err &
	pid=$!
	exec 3>pipe
	head -c 1000000 s >&3
	wait_for 10 sh -c 'ls i.part.* >/dev/null 2>&1'
}

# SIGTERM: said at once, the source is drained all the same, no file stays.
test_a_signal_gives_up_but_drains() {
	begin_save
	kill $pid
	wait_for 10 test -s err
	assertContains "$(cat err)" "given up"
	head -c 8000000 s | tail -c +1000001 >&3
	assertEquals "the source was not cut off" 0 $?
	tail -c +8000001 s >&3
	exec 3>&-
	wait $pid
	assertEquals 1 $?
	assertEquals "err pipe s" "$(echo *)"
}

# SIGKILL leaves no time for a drain: the guard does it, in spite of what was sent to the group.
test_the_guard_drains_when_the_saver_is_killed() {
	begin_save
	kill -9 $pid
	wait $pid 2>/dev/null
	tail -c +1000001 s >&3
	assertEquals "the source was not cut off" 0 $?
	exec 3>&-
	wait_for 10 test -s err
	assertEquals "qemu-snap: i: save killed: there is no new image, whatever QEMU says; the stream is drained" \
		"$(cat err)"
	assertFalse "no image" "[ -e i ]"
	run_on s "$SNAP" save i
	assertContains "$(cat err)" "a dead save left it"
	assertEquals "err i out pipe s" "$(echo *)"
}

# The answer to the source waits for a full pipe; the image has its name by then, and keeps it.
test_a_signal_that_comes_too_late() {
	mk s --return-path --switchover --kind=ordinary
	run python3 -c '
import os, signal, subprocess, sys, time
r, w = os.pipe()
os.set_blocking(w, False)
try:
    while True:
        os.write(w, bytes(4096))
except BlockingIOError:
    os.set_blocking(w, True)
p = subprocess.Popen([sys.argv[1], "save", "i"], stdin=subprocess.PIPE, stdout=w)
p.stdin.write(open("s", "rb").read())
p.stdin.flush()
end = time.time() + 20
while not os.path.exists("i") and time.time() < end:
    time.sleep(0.05)
time.sleep(0.3)
p.send_signal(signal.SIGTERM)
time.sleep(0.3)
os.close(w)
said = b""
while piece := os.read(r, 65536):
    said += piece
sys.exit(p.wait() or said[-8:] != bytes([0, 1, 0, 4, 0, 0, 0, 0]))' "$SNAP"
	expect 0 ""
	works "$SNAP" check i
}

# A guard that outlived its saver would keep the source from seeing the closed pipe.
test_no_guard_stays() {
	mk s --block=a:300 --json=1000000
	ln -s "$SNAP" saver	# a name that no other test's has
	"$dir/saver" save i <s
	cat s | "$dir/saver" save i
	assertEquals "" "$(ps -A -o args | grep "^$dir/saver ")"
	{ timeout 20 cat s; echo $? >source; } | "$dir/saver" -s 4K save j 2>err
	assertNotEquals "the source waits" 124 "$(cat source)"
	assertNotEquals "somebody reads on" 0 "$(cat source)"
	assertEquals "one message: $(cat err)" 1 "$(wc -l <err | tr -d ' ')"
}

# A source that waits for its answer does not close the stream before: neither side may wait for
# the other, whatever is wrong.
asks() {
	answer=$1
	shift
	assertEquals "$*" "$answer" "$(python3 "$TOOLS/source.py" "$@" 2>err)"
}

test_an_empty_name() {
	mk s
	for verb in "save" "import s"; do
		run_on s "$SNAP" $verb ""
		expect 1 "qemu-snap: the name of the new image is empty"
		assertEquals "err out s" "$(echo *)"
	done
}

test_the_source_that_asks_gets_its_answer() {
	# That nobody listens is nothing to speak of.
	mk s --kind=ordinary --return-path
	head -c 300000 s | "$SNAP" save i 2>err | true
	assertContains "$(cat err)" "cut, failed or cancelled"
	assertEquals "$(cat err)" 1 "$(grep -c '' err)"
	mk s --kind=ordinary --return-path
	asks "shut 0
exit 0" s "$SNAP" save i
	assertEquals "" "$(cat err)"
	run "$SNAP" check i
	assertEquals 0 "$status"
	mk t --kind=ordinary --return-path --json=0
	asks "shut 0
exit 0" t "$SNAP" save j
	for words in "--bogus save i" "frobnicate i" ""; do
		assertContains "$words" "$(python3 "$TOOLS/source.py" s "$SNAP" $words 2>err)" "shut 1"
	done
	for bad in advise packaged wrong-footer; do
		mk u --kind=ordinary --return-path --bad=$bad
		asks "shut 1
exit 2" u "$SNAP" save k
	done
	# Refused, or no room: the end of the RAM is reached, and the stream may be left there.
	mk u --kind=ordinary --return-path --bad=xbzrle
	assertContains "$(python3 "$TOOLS/source.py" u "$SNAP" save k 2>err)" "shut 1"
	assertContains "$(python3 "$TOOLS/source.py" s "$SNAP" -s 4K save k 2>err)" "shut 1"
	assertContains "$(python3 "$TOOLS/source.py" s "$SNAP" save missing/k 2>err)" "shut 1"
	assertEquals "err i j s t u" "$(ls | grep -v out | tr '\n' ' ' | sed 's/ $//')"
}

# Bytes in the device state that look like the end of the stream are not, though the source pauses
# there for as long as a busy host may let it.
test_what_looks_like_the_end_is_not() {
	# In the state of device d; then that of its true end: footer, end-of-file byte.
	printf '\176\0\0\0\7\0\6\0\0\0\23{"page_size": 1024}' >forged
	printf '\176\0\0\0\7\0' >rest
	python3 "$TOOLS/pagestream.py" --return-path 1024 m:2 0=x41 1=z | head -c -6 >begin
	for pause in 0 0.05; do
		{ cat begin forged; sleep $pause; cat forged rest; } | "$SNAP" save i 2>err >out
		ended 0 $? "$(cat err)"
		python3 "$TESTS/readimg.py" rest i | tail -c 62 >got
		cat forged forged rest | tail -c 62 >want
		assertTrue "pause $pause" "cmp want got"
	done
}

# The temporary file goes when the stream is refused, not when it ends.
test_a_refused_stream_holds_no_room() {
	mk s --bad=xbzrle --block=a:2000 --json=1000 --devices=1
	mkfifo pipe
	"$SNAP" save i <pipe 2>err &
	exec 3>pipe
	head -c 3000000 s >&3
	wait_for 10 test -s err
	wait_for 5 sh -c '! ls i.part.* >/dev/null 2>&1'
	assertEquals "err pipe s" "$(echo *)"
	tail -c +3000001 s >&3
	exec 3>&-
	wait
	assertContains "$(cat err)" "XBZRLE"
}

test_a_background_snapshot_with_other_handlers_is_not_complete() {
	mk s --iterable=htab
	run_on s "$SNAP" save i
	assertEquals 2 "$status"
	assertContains "$(cat err)" "section spapr/htab: not complete in a background snapshot"
	mk s --iterable=stattrib
	run_on s "$SNAP" save i
	assertEquals 2 "$status"
	assertContains "$(cat err)" "section s390-storage_attributes: not complete in a background"
}

# As those of guests that have no such thing are.
test_a_background_snapshot_with_empty_sections_is_complete() {
	mk s --iterable=htab --iterable=stattrib --iterable=dirty-bitmap --empty
	save i s
	holds_stream i s
}

# On a descriptor that does not block a source is not given up either.
test_stdin_that_does_not_block() {
	mk s --block=a:2000
	(cat s; sleep 1) | python3 -c '
import os, sys
os.set_blocking(0, False)
os.execv(sys.argv[1], sys.argv[1:])' "$SNAP" save i 2>err
	ended 0 $? "$(cat err)"
	(sleep 0.3; head -c 300000 /dev/zero && echo through >fed) | python3 -c '
import os, sys
os.set_blocking(0, False)
os.execv(sys.argv[1], sys.argv[1:])' "$SNAP" --bogus save i 2>err
	assertEquals through "$(cat fed)"
}

# Success is said when all is durable (F7): the source must not have written its last byte before
# the device state is synced. tools/holds.py watches both through strace, under which no sanitizer can
# look for leaks.
test_the_source_is_held_back_until_the_sync() {
	requires strace || return 0
	for options in "--block=a:3000" "--block=a:1001 --block=zz:1 --zero=0 --absent=10" \
	    "--block=a:3000 --zero=0 --devices=3" "--kind=ordinary --passes=2 --block=a:1500" \
	    "--block=a:2000 --block=rom:300 --zero=10" "--block=a:3000 --json=40000" \
	    "--block=a:30000 --zero=90 --json=40000"; do
		mk s --json=100000 $options
		run env "ASAN_OPTIONS=${ASAN_OPTIONS-}:detect_leaks=0" \
			python3 "$TOOLS/holds.py" s "$SNAP" save i
		assertEquals "$options: $(cat out err)" 0 "$status"
	done
}

no_parts() {
	[ "$(echo i.part.*)" = "i.part.*" ]
}

# Removing it may take a second: a process of its own does it.
test_large_older_image() {
	mk s
	save want s --reproducible
	cp want i
	dd if=/dev/zero of=i bs=1 seek=104857600 count=1 2>/dev/null
	ln i older
	save i s --reproducible
	assertTrue "cmp i want"
	assertTrue "its second name goes" "wait_for 5 no_parts"
	assertEquals 104857601 "$(size_of older)"
}

. "$shunit"
