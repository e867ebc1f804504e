#!/bin/sh
# Every change of a byte and every cut is found by check, in images of all shapes; the second
# reader, written from format.md alone, finds them as well.

. "$(dirname "$0")/lib.sh"

setUp() { enter; }
tearDown() { leave; }

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

. "$shunit"
