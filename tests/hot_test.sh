#!/bin/sh
# Hot lists: what a guest asked for is written down in its order, and goes out first the next time;
# one that does not belong to the image is named and harmless. And `optimize`, which puts these
# pages first in the file.

. "$(dirname "$0")/lib.sh"

hotlist() {
	python3 "$TOOLS/hotlist.py" "$@"
}

# arrivals FILE: the pages of block a of a recorded stream, in the order in which they came. A
# section begins with a record that names its block.
arrivals() {
	python3 - "$1" "${2-4096}" <<-'END'
		import re, sys
		data, size, at = open(sys.argv[1], "rb").read(), int(sys.argv[2]), 0
		start = re.compile(rb"(?s)\x02....(?=.{7}[\x02\x08]\x01a)")
		while m := start.search(data, at):
		    at = m.end()
		    while (word := int.from_bytes(data[at:at + 8], "big")) % size & ~0x20 in (2, 8):
		        print(word // size)
		        at += 8 + (0 if word & 0x20 else 2) + (size if word & 8 else 1)
	END
}

# record_stream SNAP-OPTIONS: what a destination gets that asks for nothing, to the file stream.
record_stream() {
	"$TOOLS/rpclient" --requests=0 --timeout=60 sh -c "$SNAP --trace $* | tee stream" >out 2>err
	ended 0 $? "$(cat out err)"
}

test_what_is_asked_for_is_recorded() {
	mk s --block=a:3000 --zero=30 --shuffle
	save i s
	serve --requests=200 --seed=5 -- --postcopy --record load i
	hotlist show i.hot i >first
	assertEquals "pages recorded" 200 "$(wc -l <first)"
	assertEquals "none twice" 200 "$(sort -u first | wc -l)"
	# The same guest asks for the same pages in the same order.
	serve --requests=200 --seed=5 -- --postcopy --record=other load i
	hotlist show other i >second
	assertTrue "the same order" "cmp first second"
	# They come first, then, and all the others too.
	record_stream --postcopy load i
	assertContains "$(cat err)" "i: a hot list of 200 pages, 200 of them before the guest ran"
	arrivals stream >all
	head -n 200 all | sort >got
	assertTrue "the first pages" "sort first | cmp - got"
	serve --requests=200 --dump -- --postcopy load i
	pages_of <s | grep -v ' zero$' | sort >want
	grep -v ' zero$' out | grep -v '^pages ' | sort >got
	assertTrue "pages" "cmp want got"
	record_stream --no-hot --postcopy load i
	arrivals stream >all
	head -n 200 all | sort >got
	assertFalse "the first pages without the list" "sort first | cmp -s - got"
	assertTrue "temporary files" "[ -z \"\$(ls | grep part)\" ]"
}

# Of large host pages all is recorded: the next destination may have small ones.
test_large_host_pages() {
	mk s --page-size=1024 --page-bits --block=a:4000 --zero=10
	save i s
	serve --requests=50 --seed=5 -- --postcopy --record load i
	hotlist show i.hot i | sort >want
	assertEquals "pages recorded" 200 "$(wc -l <want)"
	assertEquals "first of a host page" 50 "$(awk '$1 % 4 == 0' want | wc -l)"
	record_stream --postcopy load i
	arrivals stream 1024 >all
	head -n 200 all | sort >got
	assertTrue "the first pages" "cmp want got"
}

# What is around the pages of a list counts, where a host page is large: 64 MiB go before the guest
# runs, and not as many pages as 64 MiB of small ones.
test_huge_host_pages() {
	mk s --block=a:40960 --zero=0
	save i s
	hotlist make i.hot i $(seq 40448 -512 0)
	"$TOOLS/rpclient" --requests=0 --host-page=a=2097152 --timeout=60 \
		"$SNAP" --trace --host-page-size=2M --postcopy load i >out 2>err
	ended 0 $? "$(cat out err)"
	assertContains "$(cat err)" "a hot list of 80 pages, 32 of them before the guest ran"
}

# With more than goes before the guest runs, the rest follows at once, before the push.
test_a_long_list() {
	mk s --block=a:40000 --zero=0
	save i s
	hotlist make i.hot i $(awk 'BEGIN { for (i = 39999; i >= 20000; i--) print i }')
	record_stream --postcopy load i
	assertContains "$(cat err)" "a hot list of 20000 pages, 16384 of them before the guest ran"
	arrivals stream >order
	{ seq 23616 39999; seq 23615 -1 20000; seq 0 19999; } >want
	# The first ones as they lie in the file, the others as in the list, then what is left.
	assertTrue "order" "cmp want order"
}

# A list that is not this image's, or damaged, is said to be so, and all goes on without it.
test_bad_lists() {
	mk s --block=a:300
	save i s
	save j s
	hotlist make good i 5 7 9
	hotlist make far i 5 7000 9
	pages_of <s | grep -v ' zero$' | sort >want
	for case in "empty:impossible length of a hot list" "cut:fails its checksum" "flip:fails its checksum" "magic:not a hot list" \
		"other:belongs to another image" "far:names a page the guest does not have"; do
		cp good i.hot
		case ${case%%:*} in
		empty) : >i.hot ;;
		cut) head -c 54 good >i.hot ;;
		flip) poke i.hot 41 101 ;;
		magic) poke i.hot 0 101 ;;
		other) hotlist make i.hot j 5 7 9 ;;
		far) cp far i.hot ;;
		esac
		serve --dump -- --postcopy load i
		assertContains "$case: $(cat err)" "qemu-snap: i.hot: ${case#*:}: not used"
		grep -v ' zero$' out | grep -v '^pages ' | sort >got
		assertTrue "$case: pages" "cmp want got"
	done
	# An empty one is a list, too.
	hotlist make i.hot i
	serve -- --postcopy load i
	assertNotContains "$(cat err)" "not used"
}

# --record replaces a list, and nothing else; and a load that cannot write it in the end has loaded all
# the same.
test_where_the_list_goes() {
	mk s --block=a:300 --zero=0
	save i s
	echo precious >i.hot
	run "$SNAP" --postcopy --record load i
	assertEquals 1 "$status"
	assertContains "$(cat err)" "qemu-snap: i.hot: is there and is not a hot list: not replaced"
	assertEquals precious "$(cat i.hot)"
	rm i.hot
	ln -s elsewhere i.hot
	run "$SNAP" --postcopy --record load i
	expect 1 "qemu-snap: i.hot: is there and is not a hot list: not replaced"
	rm i.hot
	run "$SNAP" --postcopy --record=no/x load i
	expect 1 "qemu-snap: no/x: hot list cannot be written: No such file or directory"
	mkdir d
	"$TOOLS/rpclient" --requests=9 --expect-exit=1 \
		sh -c '(sleep 0.5; rmdir d) & exec "$0" --postcopy --record=d/x load i' "$SNAP" >out 2>err
	ended 0 $? "$(cat out err)"
	assertContains "$(cat err)" "qemu-snap: d/x: hot list cannot be written"
	assertContains "$(cat out)" "pages 300 "
	"$TOOLS/rpclient" --requests=9 --expect-exit=1 \
		sh -c '(until grep -q served err; do sleep 0.02; done; echo precious >x) &
		exec "$0" --postcopy --record=x load i' "$SNAP" >out 2>err
	ended 0 $? "$(cat out err)"
	assertContains "$(cat out)" "requests 9"
	assertContains "$(cat err)" "qemu-snap: x: is there and is not a hot list: not replaced"
	assertEquals precious "$(cat x)"
	# Killed: the old list stays, and what is left is swept by the next load.
	hotlist make i.hot i 1 2 3
	cp i.hot before
	"$TOOLS/rpclient" --requests=9 --expect-exit=137 sh -c 'exec <&0; "$0" --postcopy --record load i &
		sleep 0.3; kill -9 $!; wait $!' "$SNAP" >out 2>err
	assertTrue "the old list" "cmp before i.hot"
	serve --requests=9 -- --postcopy --record load i
	assertEquals 9 "$(hotlist show i.hot i | wc -l)"
	cp i.hot i.hot.part.1-0
	serve --requests=9 -- --postcopy --record load i
	assertContains "$(cat err)" "qemu-snap: i.hot.part.1-0: removed, a dead load left it"
	assertEquals "i.hot" "$(echo i.hot*)"
}

# What is of no use in a list does not hold up the guest.
test_a_list_of_absent_pages() {
	python3 "$TOOLS/pagestream.py" 4096 a:6000 0=r1 5999=r2 >s
	save i s
	hotlist make i.hot i $(seq 1 5500)
	serve --requests=2 -- --postcopy load i
	serve --requests=2 -- --postcopy=50 load i
}

# All of the list goes first, and all of PERCENT before the guest runs.
test_a_list_and_a_percentage() {
	mk s --block=a:12000 --zero=0
	save i s
	hotlist make i.hot i $(seq 11000 -1 2001)
	record_stream --postcopy=1 load i
	arrivals stream >all
	head -n 9000 all >first
	seq 2001 11000 >want
	assertTrue "the first pages" "sort -n first | cmp - want"
}

# A list is only replaced by what a guest that was loaded has asked for.
test_a_good_list_stays() {
	mk s --block=a:300
	save i s
	hotlist make i.hot i 1 2 3
	cp i.hot before
	"$TOOLS/rpclient" --requests=50 --hangup=20 --expect-exit=1 "$SNAP" --postcopy --record \
		load i >out 2>err
	assertTrue "the load failed" "cmp before i.hot"
	serve --requests=0 -- --postcopy --record load i
	assertContains "$(cat err)" "qemu-snap: i.hot: not written: the guest asked for nothing"
	assertTrue "nothing was asked for" "cmp before i.hot"
}

# same_guest IMAGE IMAGE: all that is in one is in the other.
same_guest() {
	"$SNAP" load "$1" | pages_of --rest=r1 >p1
	"$SNAP" load "$2" | pages_of --rest=r2 >p2
	assertTrue "pages of $2" "cmp p1 p2"
	assertTrue "the rest of $2" "cmp r1 r2"
	run "$SNAP" check "$2"
	assertEquals "check $2: $(cat err)" 0 "$status"
}

test_optimize() {
	while read -r options; do
		mk s --seed=7 $options
		save i s
		run "$SNAP" optimize i n
		expect 0 ""
		same_guest i n
		second_reader n
		assertEquals "$options: size" "$(size_of i)" "$(size_of n)"
		# The guest's order, and again the same.
		hotlist slots n >order
		assertTrue "$options: order" "sort -n order | cmp - order"
	done <<-'END'

		--shuffle --block=a:20000 --absent=20
		--kind=ordinary --passes=2
		--block=m:1
		--block=m:1 --zero=100
		--zero=100
		--absent=100
		--page-size=1024 --page-bits
		--page-size=65536 --page-bits --block=x:40
		--kind=ordinary --iterable=dirty-bitmap --early --uuid
		--kind=ordinary --ignore-shared
		--json=0
	END
}

test_optimize_puts_hot_pages_first() {
	mk s --block=a:3000 --zero=30 --shuffle
	save i s
	serve --requests=200 --seed=5 -- --postcopy --record load i
	hotlist show i.hot i >hot
	run "$SNAP" optimize i n
	expect 0 ""
	same_guest i n
	hotlist slots n >order
	# Zero pages of the list have no slot.
	stored=$(grep -c -x -f order hot)
	head -n "$stored" order >first
	grep -x -f order hot | cmp -s - first
	assertEquals "hot pages first, in their order" 0 $?
	tail -n +$((stored + 1)) order >others
	assertTrue "then the guest's order" "sort -n others | cmp - others"
	assertContains "$("$SNAP" info --json n)" '"hot-pages": 200'
	record_stream --postcopy load n
	arrivals stream >all
	head -n 200 all | sort >got
	assertTrue "the first pages, by the list in it" "sort hot | cmp - got"
	# The list beside an image goes before the one in it; without any, none goes in.
	hotlist make n.hot n 1 2 3
	run "$SNAP" optimize n m
	assertContains "$("$SNAP" info --json m)" '"hot-pages": 3'
	run "$SNAP" --no-hot optimize n k
	assertContains "$("$SNAP" info --json k)" '"hot-pages": 0'
}

test_optimize_codec_and_base() {
	needs_zstd || return 0
	mk s --block=a:3000 --zero=30
	mk t --block=a:3000 --zero=30 --change=3:5
	save b s
	save i t --base=b
	save z t --compress=zstd
	for words in "i" "z" "z --compress=none" "i --compress=zstd:3" "z --base=b" "i --base=b"; do
		set -- $words
		image=$1
		shift
		run "$SNAP" "$@" optimize "$image" n
		expect 0 ""
		same_guest "$image" n
		codec=none based=0
		case $words in
		z | *zstd:3 | "z --base"*) codec=zstd ;;
		esac
		case $words in
		*base*) based=1 ;;
		esac
		"$SNAP" info --json n >info
		assertContains "$words" "$(cat info)" "\"codec\": \"$codec\""
		assertEquals "$words: based on" $based "$(grep -c '"path": "b"' info)"
	done
	mv b gone
	same_guest z z
	"$SNAP" --compress=none optimize i n 2>err
	assertEquals 1 $?
	assertContains "$(cat err)" "qemu-snap: i: needs the image with UUID"
}

# It is the snapshot of the same moment; --reproducible gives the same bytes.
test_optimize_time_and_identity() {
	mk s --shuffle
	save i s
	sleep 1.1
	run "$SNAP" optimize i n
	assertEquals "$("$SNAP" info --json i | grep '"time"')" "$("$SNAP" info --json n | grep '"time"')"
	assertNotEquals "$("$SNAP" info --json i | grep uuid)" "$("$SNAP" info --json n | grep uuid)"
	save q s --reproducible
	run "$SNAP" optimize q n
	assertContains "no time stays none" "$("$SNAP" info --json n)" '"time": null'
	for threads in 0 1 4; do
		run "$SNAP" --reproducible --aio=threads,$threads optimize i r$threads
	done
	assertTrue "the same bytes" "cmp r0 r1 && cmp r1 r4"
}

# Nothing is left of what fails, and nothing harmed.
test_optimize_fails_well() {
	mk s --block=a:3000 --zero=0
	save i s
	run "$SNAP" optimize i i
	expect 1 "qemu-snap: i: is the image itself, or an ancestor of it, and is not replaced"
	ln -s i link
	run "$SNAP" optimize i link
	assertEquals "$(cat err)" 1 "$status"
	save child s --base=i
	run "$SNAP" optimize child i
	expect 1 "qemu-snap: i: is the image itself, or an ancestor of it, and is not replaced"
	run "$SNAP" optimize missing n
	expect 1 "qemu-snap: missing: No such file or directory"
	echo precious >n
	run "$SNAP" optimize i n
	expect 1 "qemu-snap: n: is there and is not a qemu-snap image: not replaced"
	assertEquals precious "$(cat n)"
	rm n
	run "$SNAP" -s 1M optimize i n
	assertEquals 1 "$status"
	assertContains "$(cat err)" "grow past the --image-size"
	cp i bad
	poke bad 5000000 0
	poke bad 5000001 1
	run "$SNAP" optimize bad n
	assertEquals 2 "$status"
	assertContains "$(cat err)" "qemu-snap: bad: block a offset 0x"
	"$SNAP" check i child >out || fail "$(cat out)"
	assertEquals "bad child err i link out s" "$(echo *)"
}

. "$shunit"
