#!/bin/sh
# load in precopy, info and check: the stream that comes out is the one that went in, whoever reads
# it; nothing that is not right leaves an image; nobody is left without a word.

. "$(dirname "$0")/lib.sh"

# The stream that load emits is one from which save makes the identical image, and all that is not
# RAM is the original's, byte for byte.
test_round_trip() {
	while read -r options; do
		mk s --seed=5 $options
		save i s --reproducible
		"$SNAP" load i >l 2>err
		ended 0 $? "$options: $(cat err)"
		save j l --reproducible
		assertTrue "$options: same image" "cmp i j"
		pages_of --rest=rest1 <s >pages1
		pages_of --rest=rest2 <l >pages2
		assertTrue "$options: pages" "cmp pages1 pages2"
		assertTrue "$options: the rest" "cmp rest1 rest2"
	done <<-'END'

		--shuffle --block=a:3000
		--kind=ordinary --passes=2
		--kind=ordinary --ignore-shared
		--absent=30
		--absent=100
		--zero=100
		--block=m:1
		--page-size=1024 --page-bits --early --uuid
		--page-size=65536 --page-bits --block=x:40
		--kind=ordinary --iterable=dirty-bitmap --iterable=htab
		--json=0
	END
}

test_same_stream_for_any_number_of_threads() {
	mk s --block=a:5000 --shuffle
	save i s
	"$SNAP" load i >first
	for options in --aio=threads,0 --aio=threads,1 --aio=threads,2 --aio=threads,7 -n \
	    --aio=native; do
		"$SNAP" $options load i >l 2>err
		ended 0 $? "$options: $(cat err)"
		assertTrue "$options" "cmp first l"
	done
}

test_peak_memory() {
	[ -z "${SANITIZED-}" ] || skip "memory: a sanitizer needs some itself" || return 0
	mk s --block=a:100000 --zero=10
	save i s
	python3 "$TOOLS/peak.py" peak "$SNAP" load i >l
	assertTrue "$(cat peak) KiB" "[ $(cat peak) -le 65536 ]"
	python3 "$TOOLS/peak.py" peak "$SNAP" check i >out
	assertTrue "$(cat peak) KiB" "[ $(cat peak) -le 65536 ]"
}

# A reader that goes away is the other side's affair: a message, and exit 1.
test_a_reader_that_goes_away() {
	mk s --block=a:5000
	save i s
	{ "$SNAP" load i 2>err; echo $? >code; } | head -c 100000 >/dev/null
	assertEquals 1 "$(cat code)"
	assertEquals "qemu-snap: the destination closed the stream" "$(cat err)"
	if [ -w /dev/full ]; then
		"$SNAP" load i >/dev/full 2>err
		assertEquals 1 $?
		assertEquals "qemu-snap: writing the stream: No space left on device" "$(cat err)"
	fi
}

test_load_leaves_stdin_alone() {
	mk s
	save i s
	"$SNAP" load i <&- >l
	assertEquals 0 $?
	printf 'abc' >in
	{ "$SNAP" load i >l; cat >rest; } <in
	assertEquals abc "$(cat rest)"
}

# A page that is not what was saved ends the stream; none of it goes out.
test_a_damaged_page_stays_inside() {
	mk s --block=a:2000 --zero=0
	save i s
	python3 - i <<-'END'
		import sys
		f = open(sys.argv[1], "r+b")
		f.seek(4096 + 1000 * 4096 + 77)
		b = f.read(1)
		f.seek(-1, 1)
		f.write(bytes([b[0] ^ 1]))
	END
	"$SNAP" load i >l 2>err
	assertEquals 2 $?
	assertContains "$(cat err)" "qemu-snap: i: block a offset 0x3e8000: page fails its checksum"
	assertTrue "not as far as that page" "[ $(size_of l) -le 4130000 ]"
	run "$SNAP" check i
	assertEquals 2 "$status"
	assertEquals "qemu-snap: i: block a offset 0x3e8000: page fails its checksum (file offset 4100096)
qemu-snap: i: damaged: 1 fault" "$(cat err)"
}

# Even if it is the first page: a destination that gets no byte at all waits for ever (F12).
test_a_destination_gets_a_byte_whatever_comes() {
	mk s --block=a:2000 --zero=0
	save i s
	python3 - i <<-'END'
		import sys
		f = open(sys.argv[1], "r+b")
		f.seek(4096)
		f.write(b"damaged")
	END
	for mode in "" --postcopy --postcopy=50 "--postcopy=50 --aio=threads,0" --aio=threads,0; do
		sleep 2 | "$SNAP" $mode load i 2>err | wc -c >count
		assertTrue "$mode" "[ $(cat count) -gt 0 ]"
		assertContains "$mode" "$(cat err)" "block a offset 0x0: page fails its checksum"
	done
}

test_check_takes_several_and_tells_the_worst() {
	mk s
	save i s
	save j s
	head -c 100000 j >k
	run "$SNAP" check i k j
	assertEquals 2 "$status"
	assertEquals "i: good, $(pages_of --count <s | sed 's/.*data \([0-9]*\).*/\1/') pages stored" \
		"$(head -n 1 out)"
	assertContains "$(cat out)" "i: good"
	assertContains "$(cat out)" "j: good"
	assertEquals "qemu-snap: k: offset 95904: no footer: an interrupted save or a cut copy" "$(cat err)"
	run "$SNAP" check i missing
	expect 1 "qemu-snap: missing: No such file or directory"
}

test_what_is_no_image() {
	mkdir d
	mkfifo p
	: >empty
	echo text >text
	head -c 20000 /dev/zero >zero
	for verb in load info check; do
		run "$SNAP" $verb empty
		expect 2 "qemu-snap: empty: not a qemu-snap image: an empty file"
		run "$SNAP" $verb text
		expect 2 "qemu-snap: text: too short for a qemu-snap image"
		run "$SNAP" $verb zero
		expect 2 "qemu-snap: zero: offset 0: not a qemu-snap image"
		run "$SNAP" $verb d
		expect 1 "qemu-snap: d: Is a directory"
		run "$SNAP" $verb p
		expect 1 "qemu-snap: p: not a regular file"
	done
}

test_wrong_page_size() {
	mk s
	save i s
	run "$SNAP" -S 8K load i
	expect 1 "qemu-snap: i: its pages have 4096 bytes, not 8192"
}

# JSON from odd names is still JSON, and says what they were.
test_info_json_of_odd_names() {
	name=$(printf 'q"b\\t\ttab\033e\303\251\377')
	mk s "--block=$name:3" --block=pc.ram:9
	cp s "$name"
	run_on s "$SNAP" save "$name.snap"
	expect 0 ""
	run "$SNAP" info --json "$name.snap"
	expect 0 ""
	assertEquals 'q"b\t	tab'"$(printf '\033')"'eéÿ 12288' "$(python3 -c '
import json, sys
d = json.load(open("out", encoding="utf-8"))
sys.stdout.reconfigure(encoding="utf-8")
print(d["blocks"][0]["id"], d["blocks"][0]["length"])')"
	run "$SNAP" info "$name.snap"
	assertFalse "no control bytes" "LC_ALL=C grep -q '$(printf '\033')' out"
}

test_info_tells_what_is_there() {
	mk s --block=pc.ram:100 --zero=40 --absent=10
	save i s
	"$SNAP" info --json i >json
	pages_of <s >pages
	python3 - <<-'END'
		import json
		d = json.load(open("json"))
		lines = open("pages").read().splitlines()
		zero = sum(l.endswith(" zero") for l in lines)
		p = d["pages"]
		assert p == {"total": 100, "stored": len(lines) - zero, "ancestor": 0, "zero": zero,
		             "absent": 100 - len(lines)}, p
		assert d["from"] == "background snapshot" and d["postcopy"] is True
	END
	assertEquals 0 $?
	"$SNAP" info i >out
	assertContains "$(cat out)" "pc.ram"
	assertContains "$(cat out)" "precopy and postcopy"
}

. "$shunit"
