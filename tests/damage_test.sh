#!/bin/sh
# Every change of a byte and every cut is found by check, in images of all shapes; the second
# reader, written from format.md alone, finds them as well.

. "$(dirname "$0")/lib.sh"

test_every_changed_byte_is_found() {
	mk s --block=a:60 --block=b:3 --zero=30 --json=1000 --devices=3
	save i s --unit-pages=4
	python3 "$TOOLS/flip.py" flip i 500 1 "$SNAP" check >missed
	assertEquals "" "$(cat missed)"
	# An image that is mostly tables.
	mk s --block=a:300 --page-size=1024 --page-bits --json=0 --devices=1 --absent=20
	save j s --unit-pages=1
	python3 "$TOOLS/flip.py" flip j 500 2 "$SNAP" check >missed
	assertEquals "" "$(cat missed)"
	# Pages longer than the header: there is a gap between them.
	mk s --block=a:4 --page-size=65536 --page-bits --json=0 --devices=1 --zero=50
	save k s
	python3 "$TOOLS/flip.py" flip k 200 3 "$SNAP" check >missed
	assertEquals "" "$(cat missed)"
}

test_every_cut_is_found() {
	mk s --block=a:60 --block=b:3
	save i s
	for verb in check info load; do
		python3 "$TOOLS/flip.py" cut i 60 4 "$SNAP" $verb >missed
		assertEquals "$verb" "" "$(cat missed)"
	done
}

test_the_second_reader_agrees() {
	mk s --block=a:60 --block=b:3 --json=1000 --devices=3
	save i s --unit-pages=4
	python3 "$TOOLS/flip.py" flip i 40 5 python3 "$TESTS/readimg.py" check >missed
	assertEquals "" "$(cat missed)"
	python3 "$TOOLS/flip.py" cut i 10 6 python3 "$TESTS/readimg.py" check >missed
	assertEquals "" "$(cat missed)"
}

# Every fault is counted, the first hundred are told.
test_check_of_a_rotten_image_is_no_flood() {
	mk s --block=a:300 --zero=0
	save i s
	dd if=/dev/zero of=i bs=4096 seek=1 count=300 conv=notrunc 2>/dev/null
	run "$SNAP" check i
	assertEquals 2 "$status"
	assertEquals 102 "$(wc -l <err)"
	assertEquals "qemu-snap: i: damaged: 300 faults" "$(tail -n 1 err)"
}

# places IMAGE PAGE...: block and offset of each page, and where its bytes, or its unit, lie in the
# file; by the second reader.
places() {
	python3 - "$TESTS" "$@" <<-'END'
		import sys
		sys.path.insert(0, sys.argv[1])
		sys.dont_write_bytecode = True
		import readimg
		img = readimg.Image(sys.argv[2])
		for page in map(int, sys.argv[3:]):
		    state, entry = img.lookup(page)
		    _, head, k, _ = img.locate(page, img.slot_of_entry(page, entry))
		    print(page, head[2] + (k * img.page_size if head[0] == readimg.RAW else 0))
	END
}

test_a_bad_page_is_named_with_its_place() {
	find_codecs
	for codec in $codecs; do
		python3 "$TOOLS/pagestream.py" 4096 a:10,b:30 0=c0 3=c3 10=c10 20=c20 21=c21 39=c39 >s
		save i s --compress=$codec --unit-pages=2
		# Of a compressed unit, both pages are bad.
		case $codec in
		none) places i 3 21 39 ;;
		*) places i 0 3 21 39 ;;
		esac >where
		: >want
		while read -r page at; do
			poke i $((at + 5)) 377
			poke i $((at + 6)) 123
			case $page in
			0 | 3) name="a offset 0x$page$([ "$page" -eq 0 ] || echo 000)" ;;
			*) name="b offset $(printf 0x%x $(((page - 10) * 4096)))" ;;
			esac
			echo "qemu-snap: i: block $name: page fails its checksum (file offset $at)" >>want
		done <where
		echo "qemu-snap: i: damaged: $(wc -l <where | tr -d ' ') faults" >>want
		run "$SNAP" check i
		expect 2 "$(cat want)"
		# The tables do not tell.
		run "$SNAP" check --quick i
		expect 0 ""
		assertEquals "i: tables good, 6 pages stored, not read" "$(cat out)"
	done
}

# A fault is named where it is, and counted for whom it belongs to.
test_faults_of_ancestors_are_theirs() {
	python3 "$TOOLS/pagestream.py" 4096 m:8 0=r0 1=r1 2=r2 3=r3 >s
	save a s
	python3 "$TOOLS/pagestream.py" 4096 m:8 0=r0 1=r1 2=r2 3=r4 >t
	save b t --base=a
	python3 "$TOOLS/pagestream.py" 4096 m:8 0=r0 1=r1 2=r5 3=r4 >u
	save c u --base=b
	cp a a.good
	poke a 5000 377
	poke a 5001 123
	poke a 9000 377
	poke a 9001 123
	run "$SNAP" check c
	expect 2 "qemu-snap: a: block m offset 0x0: page fails its checksum (file offset 4096)
qemu-snap: a: block m offset 0x1000: page fails its checksum (file offset 8192)
qemu-snap: c: damaged: 0 faults of its own, 2 in ancestors"
	poke c 5000 377
	poke c 5001 123
	poke b 5000 377
	poke b 5001 123
	run "$SNAP" check c b a a.good
	expect 2 "qemu-snap: c: block m offset 0x2000: page fails its checksum (file offset 4096)
qemu-snap: a: block m offset 0x0: page fails its checksum (file offset 4096)
qemu-snap: a: block m offset 0x1000: page fails its checksum (file offset 8192)
qemu-snap: b: block m offset 0x3000: page fails its checksum (file offset 4096)
qemu-snap: c: damaged: 1 fault of its own, 3 in ancestors
qemu-snap: b: block m offset 0x3000: page fails its checksum (file offset 4096)
qemu-snap: a: block m offset 0x0: page fails its checksum (file offset 4096)
qemu-snap: a: block m offset 0x1000: page fails its checksum (file offset 8192)
qemu-snap: b: damaged: 1 fault of its own, 2 in ancestors
qemu-snap: a: block m offset 0x0: page fails its checksum (file offset 4096)
qemu-snap: a: block m offset 0x1000: page fails its checksum (file offset 8192)
qemu-snap: a: damaged: 2 faults"
	assertEquals "a.good: good, 4 pages stored
4 images: 1 good, 3 damaged or not understood, 0 not to be checked" "$(cat out)"
	rm b
	run "$SNAP" check --quick c
	assertEquals "the ancestor is not there" "1 " "$status $(cat out)"
}

# What a quick check must find: all that is not in a page. What it must not: anything in one.
test_a_quick_check_finds_all_but_pages() {
	find_codecs
	for codec in $codecs; do
		mk s --block=a:60 --block=b:3 --zero=30 --json=1000 --devices=3
		save i s --unit-pages=4 --compress=$codec --label=x
		python3 - "$TESTS" i "$SNAP" <<-'END' >missed
			import random, subprocess, sys
			sys.path.insert(0, sys.argv[1])
			sys.dont_write_bytecode = True
			import readimg
			data = readimg.Image(sys.argv[2]).sections[readimg.DATA]
			good = open(sys.argv[2], "rb").read()
			dice = random.Random(7)
			inside = range(data.offset, data.offset + data.length)
			for n in range(400):
			    at = dice.choice(inside) if n < 50 else dice.randrange(len(good))
			    if n >= 50 and at in inside:
			        at = data.offset + data.length + at % (len(good) - inside[-1] - 1)
			    with open("bad", "wb") as f:
			        f.write(good[:at] + bytes([good[at] ^ 1 << dice.randrange(8)]) + good[at + 1:])
			    code = subprocess.run([sys.argv[3], "check", "--quick", "bad"],
			                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
			    if code != (0 if at in inside else 2):
			        print(at, code)
		END
		assertEquals "$codec" "0 " "$? $(cat missed)"
	done
}

# Nor may the tables of an ancestor that tell where the pages are be damaged.
test_a_quick_check_looks_into_the_tables_of_ancestors() {
	python3 "$TOOLS/pagestream.py" 4096 m:8 0=r0 1=r1 2=r2 3=r3 >s
	save a s
	python3 "$TOOLS/pagestream.py" 4096 m:8 0=r0 1=r1 2=r2 3=r4 >t
	save b t --base=a
	run "$SNAP" check --quick b
	expect 0 ""
	assertEquals "b: tables good, 1 page stored, 3 in ancestors, not read" "$(cat out)"
	cp a a.good
	for table in 2 3; do	# where units lie, and pages
		at=$(python3 -c 'import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import readimg
s = readimg.Image("a.good").sections[int(sys.argv[2])]
print(s.offset, s.offset + s.length - 1)' "$TESTS" $table)
		cp a.good a
		poke a "${at#* }" 125
		bad="qemu-snap: a: offset ${at% *}: table part fails its checksum"
		run "$SNAP" check --quick b
		expect 2 "$bad
qemu-snap: b: damaged: 0 faults of its own, 3 in ancestors"
	done
}

test_several_images_are_counted() {
	mk s
	save i s
	cp i j
	poke j 9000 377
	poke j 9001 123
	run "$SNAP" check i j missing s i
	assertEquals 2 "$status"
	assertEquals "5 images: 2 good, 2 damaged or not understood, 1 not to be checked" \
		"$(tail -n 1 out)"
	run "$SNAP" check i missing
	assertEquals 1 "$status"
	assertEquals "2 images: 1 good, 0 damaged or not understood, 1 not to be checked" \
		"$(tail -n 1 out)"
	run "$SNAP" check i
	assertEquals 1 "$(wc -l <out)"
}

. "$shunit"
