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

# taken IMAGE: it is good, and a load brings what the second reader finds in it.
taken() {
	run "$SNAP" check "$1"
	expect 0 ""
	"$SNAP" load "$1" >loaded || fail "load $1"
	pages_of --rest=rest1 <loaded >pages1
	second_reader "$1"
	assertTrue "$1: pages" "cmp pages1 pages3"
	assertTrue "$1: the rest" "cmp rest1 rest3"
}

# judged MODE IMAGE: each of badimage.py's images that is a lie gets exit 2 and the words that
# belong to it from check, quick or not, and from the second reader the number of its rule; the
# other verbs neither crash nor hang, and no stream goes past the lie. What a load must see, it
# refuses. Each that is none is taken.
judged() {
	python3 "$TOOLS/badimage.py" "$1" "$2" >kinds || fail "badimage.py $1"
	while read -r kind rule words; do
		case $rule in
		0)
			taken "$kind.bad"
			continue
			;;
		53) want=1 ;;			# not to be found is no damage
		*) want=2 ;;
		esac
		run "$SNAP" check "$kind.bad"
		assertEquals "$kind" $want "$status"
		assertContains "$kind" "$(cat err)" "$words"
		run "$SNAP" check --quick "$kind.bad"
		case $rule,$kind in
		44,slot-crc)	# the unit's record tells, too
			assertEquals "$kind, quick" 2 "$status"
			;;
		44,* | 48,dead-raw-flipped) expect 0 "" ;;	# it lies in a page
		*)
			assertEquals "$kind, quick" $want "$status"
			assertContains "$kind, quick" "$(cat err)" "$words"
			case $rule in
			3[6-9] | 4[0-46-9] | 5[01])
				assertContains "$kind, quick" "$(cat err)" "damaged: "
				;;
			esac
			;;
		esac
		case $rule in
		4[6-9] | 5[01]) loads= ;;	# only who reads the whole file must see them
		*) loads=$want ;;
		esac
		for verb in "load" "--postcopy load" "info"; do
			run "$SNAP" $verb "$kind.bad"
			assertTrue "$kind: $verb: exit $status" "[ $status -le 2 ]"
			[ "$verb" != load ] || [ -z "$loads" ] ||
				assertEquals "$kind: load" "$loads" "$status"
			[ "$verb $status" != "load 0" ] || {
				truth=good-${kind%-flipped}.bad
				[ -e "$truth" ] || truth=$2
				"$SNAP" load "$truth" >good
				assertTrue "$kind: loads" "cmp good out"
			}
		done
	done <kinds
	python3 - "$TESTS" >said <<-'END'
		import io, sys
		sys.path.insert(0, sys.argv[1])
		sys.dont_write_bytecode = True
		import readimg
		for line in open("kinds"):
		    kind, rule, words = line.split(" ", 2)
		    if rule == "0":
		        continue
		    try:
		        readimg.cmd_check(readimg.Image(kind + ".bad"), io.BytesIO())
		        said = "good"
		    except (readimg.Refused, OSError) as e:
		        said = str(e)
		    if not said.startswith("R%s: " % rule):
		        print("%s, R%s: %s" % (kind, rule, said))
	END
	assertEquals "second reader" "0 " "$? $(cat said)"
}

# Every number of the document has such an image, and none has another.
test_every_refusal_has_an_image() {
	python3 "$TOOLS/badimage.py" rules >made
	sed -n '/^## 15/,/^## 16/s/^| R\([0-9]*\) |.*/\1/p' "$TOP/format.md" >told
	assertTrue "numbers" "cmp told made"
	assertEquals "in order, none left out" "$(seq 55)" "$(cat told)"
}

test_each_refusal() {
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >s
	save i s --reproducible --unit-pages=2 --cluster-size=64K
	judged plain i
	assertTrue "made right again, it is the same" "cmp i good.bad"
}

# Units of two pages, the last one of one, in two blocks; pages longer than the header, one absent
# and one zero.
test_each_refusal_of_a_raw_image() {
	python3 "$TOOLS/pagestream.py" 8192 a:5,b:2 0=r0 1=r1 3=z 4=x41 5=r5 6=r6 >s
	save i s --unit-pages=2
	judged raw i
}

# The same for a coded image: a unit of four pages that was compressed, one that was not, and
# one of three pages; page 11 is zero, page 12 absent.
test_each_refusal_of_a_coded_image() {
	needs_zstd || return 0
	python3 "$TOOLS/pagestream.py" 4096 m:13 0=c0 1=c1 2=c2 3=c3 4=r4 5=r5 6=r6 7=r7 \
		8=c8 9=x41 10=c10 11=z >s
	save i s --compress=zstd --unit-pages=4
	"$SNAP" load i | pages_of >all
	judged coded i
	for dead in "dead 8000" "dead-raw 4000"; do
		"$SNAP" load "good-${dead% *}.bad" | pages_of >got
		sed "s/^m ${dead#* } .*/m ${dead#* } zero/" all >want
		assertTrue "$dead" "cmp want got"
	done
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
	run "$SNAP" check i
	assertEquals "$(cat err)" 0 "$status"
	judged based i
}

# And for a guest that takes two nodes of the page table, each with a page.
test_each_refusal_of_a_wide_image() {
	python3 "$TOOLS/pagestream.py" 1024 m:134225920 0=r0 134217728=r1 >s
	"$SNAP" save i <s 2>/dev/null || fail "save"	# it warns of the room
	judged wide i
	run "$SNAP" info leaves-nested.bad
	assertEquals 2 "$status"
	assertContains "memory is no multiple of the file" "$(cat err)" "page leaves overlap"
}

# ---- the promise of section 13 ----

# bits IMAGE: its incompatible and its compatible features.
bits() {
	od -An -td8 -j16 -N16 "$1" | tr -s ' ' | sed 's/^ //; s/ $//'
}

# No option, no feature that a reader might not know.
test_a_writer_sets_no_bit_that_was_not_asked_for() {
	python3 "$TOOLS/pagestream.py" 4096 m:9 0=c0 1=c1 5=z >s
	python3 "$TOOLS/pagestream.py" 4096 m:9 0=c0 1=c1 5=c2 >t
	save i s --label=x --unit-pages=1 --cluster-size=64K
	assertEquals "0 0" "$(bits i)"
	save j t --base=i
	assertEquals "1 0" "$(bits j)"
	run "$SNAP" optimize j n
	assertEquals "0 0" "$(bits n)"
	needs_zstd || return 0
	save k t --compress=zstd
	assertEquals "2 0" "$(bits k)"
	save l t --compress=zstd --base=i
	assertEquals "3 0" "$(bits l)"
	run "$SNAP" --compress=none optimize l n
	assertEquals "0 0" "$(bits n)"
}

# What a later version adds without an incompatible bit, and what must not go on into a new image.
# That a reader takes such images is shown above.
test_what_is_not_known_is_left_out_of_a_new_image() {
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >s
	save i s --unit-pages=2
	python3 "$TOOLS/badimage.py" plain i >kinds
	run "$SNAP" optimize good-compatible-features.bad n
	expect 0 ""
	assertEquals "0 0" "$(bits n)"
	run "$SNAP" optimize good-unknown-sections.bad n
	expect 0 "qemu-snap: good-unknown-sections.bad: section of type 25: not known, and left out
qemu-snap: good-unknown-sections.bad: section of type 99: not known, and left out
qemu-snap: good-unknown-sections.bad: section of type 4294967295: not known, and left out"
	taken n
	run "$SNAP" optimize good-hot.bad n
	expect 0 ""
	assertEquals "1
0" "$(python3 "$TESTS/readimg.py" hot n)"
}

# ---- all kinds of images ----

# No page, one, no more than zeros; pages around the ends of leaves; the smallest pages and units,
# and the largest.
test_images_of_all_shapes() {
	shapes=0
	while read -r options; do
		guest=${options#*: }
		python3 "$TOOLS/pagestream.py" $guest >s
		save i s ${options%%: *}
		holds_stream i s
		shapes=$((shapes + 1))
	done <<-'END'
		--unit-pages=16: 4096 m:3
		--unit-pages=16: 4096 m:1 0=z
		--unit-pages=16: 4096 m:1 0=r0
		--unit-pages=1: 1024 a:8193,b:1,c:7 0=r0 8191=r1 8192=z 8193=r2 8200=x01
		--unit-pages=256: 1024 a:8191,b:3 8190=r0 8191=r1 8193=r2
		--unit-pages=256: 65536 a:3,b:1 0=r0 2=z 3=x02
		--unit-pages=2: 16384 m:20000 0=z 1=z 9000=r1 16384=z
	END
	assertEquals 7 $shapes
}

# Made again and again: with a base, hot pages first, both, compressed.
test_images_of_images() {
	codecs=none
	has_zstd && codecs="none zstd"
	python3 "$TOOLS/pagestream.py" 4096 m:40 0=c0 1=r1 2=z 3=x03 30=c30 39=r39 >s
	python3 "$TOOLS/pagestream.py" 4096 m:40 0=c0 1=r2 2=z 3=x03 30=c31 39=r39 38=z >t
	for codec in $codecs; do
		save b s --compress=$codec --unit-pages=2
		save i t --compress=$codec --unit-pages=2 --base=b --label=x
		holds_stream i t
		python3 "$TOOLS/hotlist.py" make i.hot i 39 3 39 0
		for base in "" --base=b; do
			run "$SNAP" optimize $base i n
			expect 0 ""
			holds_stream n t
			assertEquals "39 3 39 0" "$(python3 "$TESTS/readimg.py" hot n | xargs)"
		done
	done
}

. "$shunit"
