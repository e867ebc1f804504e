#!/bin/sh
# Compressed images: what goes in comes out, whatever the stream looks like; the same bytes for any
# number of threads; repeats take no room; what does not compress stays as it is; and what is
# damaged is found before it is decoded.

. "$(dirname "$0")/lib.sh"

test_streams_of_all_shapes() {
	needs_zstd || return 0
	while read -r options; do
		mk s --seed=7 --json=2000 $options
		save i s --compress=zstd --cluster-size=64K
		holds_stream i s
	done <<-'END'

		--shuffle
		--kind=ordinary --passes=3 --late-zero=20 --late-data=20
		--kind=ordinary --passes=5 --late-zero=70 --zero=0 --shuffle
		--kind=ordinary --return-path --switchover --ignore-shared
		--zerodata=30 --absent=30
		--absent=100
		--zero=100
		--zerodata=100
		--zero=0
		--block=m:1
		--block=m:1 --zero=100
		--block=a:1 --block=b:1 --block=c:8191 --block=d:8193 --zero=98
		--page-size=1024 --page-bits
		--page-size=2048 --page-bits --shuffle --kind=ordinary --passes=3 --late-data=30
		--page-size=16384 --page-bits --block=x:60
		--kind=ordinary --iterable=dirty-bitmap --iterable=htab
	END
	mk s --page-size=65536 --page-bits --block=x:40
	save i s --compress=zstd --unit-pages=4 --cluster-size=64K
	holds_stream i s
}

test_a_limit_of_the_image_size() {
	needs_zstd || return 0
	mk s
	save i s --compress=zstd
	save j s --compress=zstd --image-size="$(size_of i)"
	rm j
	run_on s "$SNAP" --compress=zstd --image-size=$(($(size_of i) / 2)) save j
	expect 1 "qemu-snap: j: image would grow past the --image-size of $(($(size_of i) / 2)) bytes"
	assertEquals "files" "err i out s" "$(ls | tr '\n' ' ' | sed 's/ $//')"
}

# 300 MiB of repeats of 20 MiB: neither the file nor the temporary file is long.
test_repeats_take_no_room() {
	needs_zstd || return 0
	mk s --kind=ordinary --passes=15 --block=a:5120 --zero=0
	save i s --compress=zstd --cluster-size=64K
	"$SNAP" load i >once
	save j once --compress=zstd --cluster-size=64K
	assertTrue "$(size_of i) for $(size_of j)" \
		"[ $(size_of i) -le $(($(size_of j) * 11 / 10)) ]"
	pages_of <s >want
	pages_of <once >got
	assertTrue "the last copy of each page" "cmp want got"
	run "$SNAP" check i
	assertEquals "$(cat err)" 0 "$status"
	# All units that were ever written, one after the other, would be fifteen times as long.
	save i s --compress=zstd --cluster-size=64K -s $(($(size_of j) * 10))
}

# Pages that come again here and there, and pages that became zero.
test_dead_pages_go_in_the_end() {
	needs_zstd || return 0
	mk s --kind=ordinary --passes=2 --block=a:3000 --zero=0 --late-zero=50
	save i s --compress=zstd
	"$SNAP" load i >once
	save j once --compress=zstd
	assertTrue "$(size_of i) for $(size_of j)" \
		"[ $(size_of i) -le $(($(size_of j) * 11 / 10)) ]"
	pages_of <s >want
	pages_of <once >got
	assertTrue "pages" "cmp want got"
	# Left out, page 4 would make its unit longer (with zstd 1.5.4): its slot is a dead one.
	python3 "$TOOLS/pagestream.py" 4096 m:8 0=c25 1=r40 2=c34 3=r43 4=c30 5=c30 6=xac 7=x61 \
		4=z >s
	save i s --compress=zstd --unit-pages=8
	holds_stream i s
}

# Also where ranks are closed in the middle of it, as in the second one, with pages on their way
# that do not come again.
test_same_bytes_for_any_number_of_threads() {
	needs_zstd || return 0
	while read -r stream; do
		mk s $stream
		save first s --compress=zstd --reproducible --cluster-size=64K --aio=threads,0
		run "$SNAP" check first
		assertEquals "$(cat err)" 0 "$status"
		pages_of <s >want
		"$SNAP" load first | pages_of >got
		assertTrue "$stream: pages" "cmp want got"
		for options in --aio=threads,1 --aio=threads,2 --aio=threads,4 \
		    --cache=writethrough; do
			save i s --compress=zstd --reproducible --cluster-size=64K $options
			assertTrue "$stream: $options" "cmp first i"
		done
		"$TOOLS/mkstream" $stream |
			"$SNAP" save i --compress=zstd --reproducible --cluster-size=64K
		assertTrue "$stream: through a pipe" "cmp first i"
	done <<-'END'
		--shuffle --block=a:3000 --block=b:77
		--kind=ordinary --passes=17 --page-size=1024 --page-bits --block=a:3000 --zero=0
		--kind=ordinary --passes=4 --late-zero=30 --late-data=10 --block=a:3000 --block=b:77
	END
}

# codecs IMAGE: of its units, each once.
codecs() {
	python3 - "$TESTS" "$1" <<-'END'
		import sys
		sys.dont_write_bytecode = True
		sys.path.insert(0, sys.argv[1])
		import readimg
		heads = readimg.check_unit_table(readimg.Image(sys.argv[2]))[2]
		print(*sorted({head[0] for head in heads}))
	END
}

test_what_does_not_compress_stays_as_it_is() {
	needs_zstd || return 0
	python3 "$TOOLS/pagestream.py" 4096 a:1000 $(seq 0 999 | sed 's/.*/&=r&/') >s
	save r s
	save i s --compress=zstd:19
	assertEquals "raw units" 0 "$(codecs i)"
	holds_stream i s
	# A last unit that is short has all its slots in the table of a coded image.
	assertTrue "$(size_of i) for $(size_of r)" "[ $(size_of i) -le $(($(size_of r) + 200)) ]"
	python3 "$TOOLS/pagestream.py" 4096 a:1000 $(seq 0 999 | sed 's/.*/&=c&/') >s
	save r s
	save i s --compress=zstd
	assertEquals "coded units" 1 "$(codecs i)"
	assertTrue "half a byte for a byte: $(size_of i) for $(size_of r)" \
		"[ $(size_of i) -le $(($(size_of r) * 6 / 10)) ]"
}

test_sizes_of_units() {
	needs_zstd || return 0
	mk s --shuffle
	for n in 1 2 64; do
		save i s --compress=zstd --unit-pages=$n
		holds_stream i s
	done
	run_on s "$SNAP" save j --compress=zstd --unit-pages=128
	expect 1 "qemu-snap: j: units of 128 pages of 4096 bytes are too large to be compressed"
	assertFalse "nothing left" "ls j* 2>/dev/null"
	save j s --unit-pages=128
	mk s --page-size=1024 --page-bits
	save i s --compress=zstd --unit-pages=256
	holds_stream i s
}

# refused VALUE WORDS: exit 1, these words, all of the source read up to the devices, no file.
refused() {
	"$TOOLS/mkstream" --json=1000 --drained=fed | "$SNAP" save j --compress="$1" 2>err
	assertEquals "$1" 1 $?
	assertEquals "$1" "qemu-snap: --compress=$1: $2" "$(cat err)"
	assertTrue "$1: drained" "[ -f fed ]"
	assertFalse "$1: nothing left" "ls j* 2>/dev/null"
	rm -f fed
}

test_levels_and_names() {
	needs_zstd || return 0
	mk s --json=2000
	for level in 1 19; do
		save i$level s --compress=zstd:$level --unit-pages=64
		holds_stream i$level s
	done
	assertTrue "$(size_of i19) for $(size_of i1)" "[ $(size_of i19) -lt $(size_of i1) ]"
	save a s --reproducible --compress=zstd
	save b s --reproducible --compress=zstd:1
	assertTrue "the usual level" "cmp a b"
	save a s --reproducible --compress=none
	save b s --reproducible
	assertTrue "none" "cmp a b"
	for value in zstd:0 zstd:20 zstd: zstd:x zstd:1x zstd:-1 zstd:99999999999999999999; do
		refused $value "not a level from 1 to 19"
	done
	for value in lz4 zst zstdx ZSTD none:1 :1 ""; do
		refused "$value" "not none or zstd, zstd:LEVEL"
	done
}

test_no_direct_io() {
	needs_zstd || return 0
	words="i: no direct I/O with compressed pages"
	mk s
	save want s --compress=zstd --reproducible
	run_on s "$SNAP" save i --compress=zstd --reproducible --cache=none
	expect 0 "qemu-snap: $words"
	assertTrue "cmp want i"
	run "$SNAP" check --cache=none i
	expect 0 "qemu-snap: $words"
	"$SNAP" load -n i >l 2>err
	expect 0 "qemu-snap: $words"
	"$SNAP" load i | cmp - l
	assertEquals "load" 0 $?
}

test_a_build_without_zstd() {
	needs_zstd || return 0
	mk s
	save raw s
	save coded s --compress=zstd
	mkdir copy && cp "$TOP"/*.c "$TOP"/*.h "$TOP"/Makefile copy &&
		make -C copy ZSTD=0 CFLAGS=-O0 >log 2>&1 || fail "make ZSTD=0: $(tail -n 3 log)"
	assertEquals "zstd in it" 0 "$(grep -a -c ZSTD_ copy/qemu-snap)"
	run copy/qemu-snap check raw
	assertEquals "$(cat err)" 0 "$status"
	copy/qemu-snap load raw >l
	"$SNAP" load raw | cmp - l
	assertEquals "load" 0 $?
	words="compressed with zstd, which this qemu-snap was built without"
	for verb in check load "load --postcopy" info; do
		run copy/qemu-snap $verb coded
		expect 2 "qemu-snap: coded: $words"
	done
	# The second reader says the same, where the library is missing.
	python3 - "$TESTS" <<-'END'
		import sys
		sys.dont_write_bytecode = True
		sys.path.insert(0, sys.argv[1])
		import readimg
		def missing(name):
		    raise OSError(name)
		readimg.ctypes.CDLL = missing
		readimg.Image("raw")
		try:
		    readimg.Image("coded")
		    sys.exit("opened")
		except readimg.Refused as e:
		    assert e.number == 4 and "zstd" in e.text, e
	END
	assertEquals "second reader" 0 $?
	with=$SNAP SNAP=$PWD/copy/qemu-snap
	refused zstd "this qemu-snap was built without zstd"
	refused zstd:3 "this qemu-snap was built without zstd"
	refused lz4 "not none or zstd, zstd:LEVEL"
	save i s --compress=none
	SNAP=$with
}

test_postcopy() {
	needs_zstd || return 0
	while read -r options; do
		mk s --seed=3 --json=2000 $options
		save i s --compress=zstd --cluster-size=64K
		pages_of <s | grep -v ' zero$' | sort >want
		for client in "--requests=200 --burst=8 --repeat --before-run" "--requests=0"; do
			run "$TOOLS/rpclient" --dump $client "$SNAP" --postcopy load i
			assertEquals "$options, $client: $(tail -n 1 out) $(cat err)" 0 "$status"
			grep -v ' zero$' out | grep -v '^pages ' | sort >got
			assertTrue "$options, $client: pages" "cmp want got"
		done
	done <<-'END'
		--shuffle --block=a:2000 --block=b:1
		--kind=ordinary --passes=3 --late-zero=20 --late-data=20
		--page-size=1024 --page-bits --block=a:2000 --block=b:4 --zero=50 --shuffle
	END
}

# A changed byte is found by check wherever it is; a load that does not see it gives out the right
# pages all the same.
test_damage() {
	needs_zstd || return 0
	mk s --block=a:150 --block=b:3 --zero=30 --json=1000 --devices=3 --shuffle
	save i s --compress=zstd --unit-pages=8
	python3 "$TOOLS/flip.py" flip i 200 1 "$SNAP" check >missed
	assertEquals "" "$(cat missed)"
	python3 "$TOOLS/flip.py" flip i 15 2 python3 "$TESTS/readimg.py" check >missed
	assertEquals "" "$(cat missed)"
	"$SNAP" load i >good
	python3 - "$SNAP" >missed <<-'END'
		import random, subprocess, sys
		rng = random.Random(3)
		whole, good = open("i", "rb").read(), open("good", "rb").read()
		refused = 0
		for _ in range(200):
		    at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
		    with open("j", "wb") as f:
		        f.write(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1:])
		    done = subprocess.run([sys.argv[1], "load", "j"], capture_output=True)
		    refused += done.returncode == 2
		    if done.returncode not in (0, 2) or \
		            done.returncode == 0 and done.stdout != good:
		        print("byte %d: exit %d" % (at, done.returncode))
		    # What was sent before it was seen is right as well.
		    if done.returncode == 2 and len(done.stdout) > 4096 and \
		            not good.startswith(done.stdout[:-4096]):
		        print("byte %d: wrong bytes" % at)
		if refused < 150:
		    print("only %d were seen" % refused)
	END
	assertEquals "" "$(cat missed)"
}

. "$shunit"
