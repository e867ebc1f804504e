#!/bin/sh
# Several at once on one image: many loads; a save onto a name that is being loaded, or saved; a
# load of an image that is still being copied. Nobody ever sees half of anything.

. "$(dirname "$0")/lib.sh"

# slowly FILE COMMAND...: COMMAND's output goes to FILE, but after 4 KiB not before "go": until
# then COMMAND writes no more than a pipe holds.
slowly() {
	slow_out=$1
	shift
	mkfifo go
	{ "$@" 2>err; echo $? >status; } | { head -c 4096; read -r _ <go; cat; } >"$slow_out" &
}

go() {
	echo >go
	wait
	rm go
}

test_many_loads_at_once() {
	mk s --block=a:3000 --shuffle
	save i s
	"$SNAP" load i >good
	for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
		"$SNAP" load i >l$n 2>err$n &
	done
	for n in 1 2 3 4; do
		"$TOOLS/rpclient" --seed=$n --requests=50 --timeout=60 "$SNAP" --postcopy load i >p$n 2>errp$n &
		"$SNAP" check i >c$n 2>errc$n &
	done
	wait
	for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
		assertTrue "load $n: $(cat err$n)" "cmp good l$n"
	done
	for n in 1 2 3 4; do
		assertContains "postcopy $n: $(cat errp$n)" "$(cat p$n)" " exit 0"
		assertContains "check $n: $(cat errc$n)" "$(cat c$n)" "i: good"
	done
}

# Who has begun to load the old image gets it whole, precopy or postcopy.
test_a_save_onto_what_is_being_loaded() {
	mk s1 --block=a:3000 --seed=1
	mk s2 --block=a:2000 --seed=2
	save i s1
	"$SNAP" load i >good1
	slowly l "$SNAP" load i
	wait_for 10 test -s l
	save i s2
	"$SNAP" load i >good2
	go
	assertEquals "$(cat err)" 0 "$(cat status)"
	assertTrue "the old image, whole" "cmp good1 l"
	assertFalse "there is a new one" "cmp -s good1 good2"

	pages_of <s2 | grep -v ' zero$' | sort >want
	"$TOOLS/rpclient" --dump --requests=200 --read-delay=5000 "$SNAP" --postcopy load i >out 2>err &
	wait_for 10 grep -q UUID err
	save j s1
	mv j i
	wait
	assertContains "$(cat err)" "$(tail -n 1 out)" " exit 0"
	grep -v -e '^pages ' -e ' zero$' out | sort >got
	assertTrue "the old image, page by page" "cmp want got"
}

# Both work, as if one had come after the other.
test_two_saves_onto_one_name() {
	mk s1 --block=a:2000 --seed=1
	mk s2 --block=a:2000 --seed=2
	save good1 s1 --reproducible
	save good2 s2 --reproducible
	mkfifo p1 p2
	"$SNAP" --reproducible save i <p1 2>err1 &
	first=$!
	"$SNAP" --reproducible save i <p2 2>err2 &
	second=$!
	exec 3>p1 4>p2
	# Turn by turn, so that both are in the midst of it.
	for offset in 0 1 2 3; do
		tail -c +$((offset * 1000000 + 1)) s1 | head -c 1000000 >&3
		tail -c +$((offset * 1000000 + 1)) s2 | head -c 1000000 >&4
	done
	assertEquals "both are there: $(cat err1 err2)" 2 "$(echo i.part.* | wc -w | tr -d ' ')"
	tail -c +4000001 s1 >&3
	exec 3>&-
	wait $first
	ended 0 $? "$(cat err1)"
	assertTrue "the first" "cmp good1 i"
	tail -c +4000001 s2 >&4
	exec 4>&-
	wait $second
	ended 0 $? "$(cat err2)"
	assertTrue "the second" "cmp good2 i"
	assertEquals "not a word" "" "$(cat err1 err2)"
	assertEquals "no part is left" "i.part.*" "$(echo i.part.*)"
}

test_many_saves_onto_one_name() {
	mkdir d
	for n in 1 2 3 4 5 6; do
		mk s$n --block=a:500 --seed=$n
		save good$n s$n --reproducible
		"$SNAP" --reproducible save d/i <s$n 2>err$n &
	done
	wait
	winner=
	for n in 1 2 3 4 5 6; do
		! cmp -s good$n d/i || winner=$n
		assertEquals "save $n" "" "$(cat err$n)"
	done
	assertNotEquals "one of them is there" "" "$winner"
	assertEquals "and nothing else" "i" "$(ls d)"
}

# What cp has not yet finished is refused, whichever its length; then it is fine.
test_a_load_of_what_is_being_copied() {
	mk s --block=a:2000
	save i s
	"$SNAP" load i >good
	n=$(size_of i)
	: >copy
	for at in 0 1 4095 4096 4097 $((n / 4)) $((n / 2)) $((n - 8192)) $((n - 4097)) $((n - 4096)) \
	    $((n - 1)); do
		tail -c +$(($(size_of copy) + 1)) i | head -c $((at - $(size_of copy))) >>copy
		for mode in "" --postcopy --resume; do
			timeout 10 "$SNAP" $mode load copy 2>err >l </dev/null
			ended 2 $? "$mode at $at: $(cat err)"
			assertEquals "$mode at $at: $(cat err)" 1 "$(grep -c '^qemu-snap: copy: ' err)"
			assertEquals "$mode at $at: nothing comes out" 0 "$(size_of l)"
		done
		run "$SNAP" check copy
		assertEquals "check at $at" 2 "$status"
	done
	tail -c +$n i >>copy
	run "$SNAP" check copy
	assertEquals "$(cat err)" 0 "$status"
	"$SNAP" load copy >l
	assertTrue "complete" "cmp good l"
}

# A copy that has its full length at once, and holes: of another kind, but no image either.
test_a_load_of_a_copy_with_holes() {
	mk s --block=a:500
	save i s
	n=$(size_of i)
	for at in 0 4096 1000000 $((n - 100000)); do
		cp i copy
		dd if=/dev/zero of=copy bs=4096 seek=$((at / 4096)) count=4 conv=notrunc 2>/dev/null
		run "$SNAP" check copy
		assertEquals "hole at $at: $(cat err)" 2 "$status"
		"$SNAP" load copy >l 2>err
		ended 2 $? "hole at $at: $(cat err)"
	done
	{ head -c 4096 i; head -c $((n - 4096)) /dev/zero; } >copy
	run "$SNAP" load copy
	assertEquals 2 "$status"
}

. "$shunit"
