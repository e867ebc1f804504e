#!/bin/sh
# format.md tells the truth: its example is what the program writes, an image of each released
# version can still be read, and the reader written from the document alone takes them all.

. "$(dirname "$0")/lib.sh"

test_the_example() {
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >s
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
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >s
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

# refused GOOD: each image in the file kinds gets exit 2 and the words that belong to it from
# check, and from the second reader the number of its rule; the others neither crash nor hang, and
# no stream goes past the lie. What a load must see, it refuses.
refused() {
	"$SNAP" load "$1" >good
	while read -r kind rule words; do
		want=2 loads=
		case $kind in
		nowhere | other-uuid) want=1 ;;		# R55: not to be found is no damage
		esac
		run "$SNAP" check "$kind.bad"
		assertEquals "$kind" $want "$status"
		assertContains "$kind" "$(cat err)" "$words"
		# 0: not told; 46 to 53: only who reads the whole file must see them.
		[ "$rule" -eq 0 ] || { [ "$rule" -ge 46 ] && [ "$rule" -le 53 ]; } || loads=$want
		for verb in "load" "--postcopy load" "info"; do
			# shellcheck disable=SC2086
			run "$SNAP" $verb "$kind.bad"
			assertTrue "$kind: $verb: exit $status" "[ $status -le 2 ]"
			[ "$verb" != load ] || [ -z "$loads" ] ||
				assertEquals "$kind: load" "$loads" "$status"
			[ "$verb $status" != "load 0" ] || assertTrue "$kind: loads" "cmp good out"
		done
	done <kinds
	python3 - "$TESTS" >said <<-'END'
		import io, sys
		sys.path.insert(0, sys.argv[1])
		sys.dont_write_bytecode = True
		import readimg
		for line in open("kinds"):
		    kind, rule, words = line.split(" ", 2)
		    try:
		        readimg.cmd_check(readimg.Image(kind + ".bad"), io.BytesIO())
		        said = "good"
		    except (readimg.Refused, OSError) as e:
		        said = str(e)
		    if not said.startswith("R" if rule == "0" else "R%s: " % rule):
		        print("%s, R%s: %s" % (kind, rule, said))
	END
	assertEquals "second reader" "0 " "$? $(cat said)"
}

# One image for each thing that must be refused, its checksums made right again.
test_each_refusal() {
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >s
	save i s --reproducible --unit-pages=2 --cluster-size=64K
	python3 "$TOOLS/badimage.py" plain i >kinds
	assertTrue "kinds" "[ $(wc -l <kinds) -gt 80 ]"
	refused i
}

# The same for a coded image: a unit of four pages that was compressed, one that was not, and
# one of three pages; page 11 is zero, page 12 absent.
test_each_refusal_of_a_coded_image() {
	needs_zstd || return 0
	python3 "$TOOLS/pagestream.py" 4096 m:13 0=c0 1=c1 2=c2 3=c3 4=r4 5=r5 6=r6 7=r7 \
		8=c8 9=x41 10=c10 11=z >s
	save i s --compress=zstd --unit-pages=4
	python3 "$TOOLS/badimage.py" coded i >kinds
	assertTrue "kinds" "[ $(wc -l <kinds) -gt 25 ]"
	# A dead slot is no damage.
	while read -r kind page; do
		run "$SNAP" check "$kind.bad"
		assertEquals "$kind: $(cat err)" "0 $kind.bad: good, 10 pages stored" \
			"$status $(cat out)"
		"$SNAP" load "$kind.bad" | pages_of >got
		"$SNAP" load i | pages_of | sed "s/^m $page .*/m $page zero/" >want
		assertTrue "$kind" "cmp want got"
		assertEquals "good" "$(python3 "$TESTS/readimg.py" check "$kind.bad")"
	done <<-'END'
		dead 8000
		dead-raw 4000
	END
	# What is in one is of no use, but damage all the same.
	grep '^dead-raw-flipped ' kinds >flipped
	sed -i '/^dead/d' kinds
	run "$SNAP" check --quick dead-raw-flipped.bad
	expect 0 ""
	cp kinds others && cp flipped kinds
	refused dead-raw.bad
	cp others kinds
	refused i
}

# And for one with a base: other bases, all with the UUID of the true one, are not what it was
# based on.
test_each_refusal_of_an_image_with_a_base() {
	python3 "$TOOLS/pagestream.py" 4096 m:4 0=r0 1=r1 2=z >s
	save b s
	save i s --base=b
	python3 "$TOOLS/pagestream.py" 4096 n:4 0=r0 1=r1 2=z >t
	save k t
	python3 "$TOOLS/pagestream.py" 2048 m:8 0=r0 1=r1 2=z >t
	save p t
	python3 "$TOOLS/pagestream.py" 4096 m:4 0=z 1=r1 2=z >t
	save z t
	python3 "$TOOLS/pagestream.py" 4096 m:4 0=c0 1=r1 2=z >t
	save c t
	python3 "$TOOLS/badimage.py" based i >kinds
	assertTrue "kinds" "[ $(wc -l <kinds) -gt 15 ]"
	run "$SNAP" check i
	assertEquals "$(cat err)" 0 "$status"
	refused i
}

. "$shunit"
