#!/bin/sh
# format.md tells the truth: its example is what the program writes, an image of each released
# version can still be read, and the reader written from the document alone takes them all.

. "$(dirname "$0")/lib.sh"

setUp() { enter; }
tearDown() { leave; }

test_the_example() {
	python3 "$TOOLS/tinystream.py" >s
	save i s --reproducible --unit-pages=2 --cluster-size=64K
	od -Ad -tx1 i >dump
	sed -n '/^## 18/,/^## 19/p' "$TOP/format.md" | sed -n '/^```$/,/^```$/p' | grep -v '^```' >doc
	assertTrue "the dump in format.md" "cmp dump doc"
	python3 "$TESTS/readimg.py" check i >out
	assertEquals "good" "$(cat out)"
	python3 "$TESTS/readimg.py" list i >out
	assertEquals "m 0 $(python3 -c 'import zlib; print("%08x" % zlib.crc32(b"A" * 1024))')
m 400 zero" "$(cat out)"
}

# With the processor's instruction where it has one, and with the tables alone.
test_crc() {
	run "$TOOLS/crctest"
	assertEquals "$(cat err)" 0 "$status"
	${CC:-cc} -D_POSIX_C_SOURCE=200809L -DNO_CRC_INSTRUCTION -O1 -I"$TOP" -o crctest \
		"$TOOLS/crctest.c" "$TOP/crc32c.c" || fail "does not build"
	run ./crctest
	assertEquals "tables: $(cat err)" 0 "$status"
}

# The promise: what a released version wrote can be read by all later ones.
test_images_of_released_versions() {
	python3 "$TOOLS/tinystream.py" >s
	pages_of <s >want
	for image in "$TESTS"/data/good-*.snap; do
		run "$SNAP" check "$image"
		assertEquals "$image: $(cat err)" 0 "$status"
		"$SNAP" load "$image" >l
		pages_of <l >got
		assertTrue "$image" "cmp want got"
	done
}

# Block extraction and the stream, by the second reader.
test_the_second_reader_extracts() {
	mk s --block=a:40 --block=pc.ram:30 --zero=30 --absent=10
	save i s
	python3 "$TESTS/readimg.py" block i pc.ram >ram
	assertEquals $((30 * 4096)) "$(size_of ram)"
	python3 "$TESTS/readimg.py" stream i >s2
	"$SNAP" load i >s3
	pages_of --rest=r2 <s2 >p2
	pages_of --rest=r3 <s3 >p3
	assertTrue "pages" "cmp p2 p3"
	assertTrue "the rest" "cmp r2 r3"
	python3 - <<-'END'
		import zlib
		ram = open("ram", "rb").read()
		for line in open("p2"):
		    block, off, what = line.split()
		    if block == "pc.ram":
		        page = ram[int(off, 16):][:4096]
		        got = "zero" if not any(page) else "%08x" % zlib.crc32(page)
		        assert got == what, line
	END
	assertEquals 0 $?
}

# One image for each thing that must be refused, its checksums made right again: exit 2 and the
# words that belong to it from check; no crash, no hang and no stream past the lie from the others.
test_each_refusal() {
	python3 "$TOOLS/tinystream.py" >s
	save i s --reproducible --unit-pages=2 --cluster-size=64K
	python3 "$TOOLS/badimage.py" i >kinds
	assertTrue "kinds" "[ $(wc -l <kinds) -gt 80 ]"
	"$SNAP" load i >good
	while read -r kind words; do
		run "$SNAP" check "$kind.bad"
		assertEquals "$kind" 2 "$status"
		assertContains "$kind" "$(cat err)" "$words"
		for verb in "load" "--postcopy load" "info"; do
			# shellcheck disable=SC2086
			run "$SNAP" $verb "$kind.bad"
			assertTrue "$kind: $verb: exit $status" "[ $status -le 2 ]"
			[ "$verb $status" != "load 0" ] || assertTrue "$kind: loads" "cmp good out"
		done
	done <kinds
}

. "$shunit"
