#!/bin/sh
# The fuzzers of tests/fuzz: what they once found, and a short run of each. Long ones: tests/fuzz/run.

. "$(dirname "$0")/lib.sh"

setUp() { enter; }
tearDown() { leave; }

# fuzzes NAME: its fixtures, then ten seconds.
fuzzes() {
	SNAP=$SNAP TMPDIR=$dir run sh "$TESTS/fuzz/run" 10 "$1"
	if [ "$status" -eq 77 ]; then
		echo "SKIP $(tail -n 1 out)"
		return
	fi
	assertEquals "$(cat out err)" 0 "$status"
	assertContains "it ran: $(cat out err)" "$(cat out)" "$1: "
	assertContains "it ran: $(cat out err)" "$(cat out)" " runs, "
	assertNotContains "$(cat out)" "$1: no runs"
}

test_streams() { fuzzes stream; }

test_images() { fuzzes image; }

test_the_return_path() { fuzzes return; }

test_writing() { fuzzes write; }

test_hot_lists() { fuzzes hot; }

test_import() { fuzzes import; }

test_a_monitor() { fuzzes qmp; }

. "$shunit"
