#!/bin/sh
# Nothing that comes from a stranger - a stream, an image, a return path, a hot list, a monitor - makes
# the program crash, hang or take what is wrong: the fuzzers of tests/fuzz, with what they once found,
# and a short run of each. Long ones: tests/fuzz/run.

. "$(dirname "$0")/lib.sh"

# All in one go, as they have most objects in common.
oneTimeSetUp() {
	SNAP=$SNAP TMPDIR=$SHUNIT_TMPDIR sh "$TESTS/fuzz/run" 10 >"$SHUNIT_TMPDIR/said" 2>&1 </dev/null
	ran=$?
}

# fuzzes NAME: its fixtures, then ten seconds.
fuzzes() {
	[ $ran -ne 77 ] || skip "$(cat "$SHUNIT_TMPDIR/said")" || return 0
	said=$(cat "$SHUNIT_TMPDIR/said")
	assertTrue "it ran: $said" "grep -aq '^$1: [1-9][0-9]* runs' '$SHUNIT_TMPDIR/said'"
	assertEquals "nothing was found" "" "$(echo "$said" | grep -a "^$1: found")"
}

test_streams() { fuzzes stream; }

test_images() { fuzzes image; }

test_the_return_path() { fuzzes return; }

test_writing() { fuzzes write; }

test_hot_lists() { fuzzes hot; }

test_import() { fuzzes import; }

test_a_monitor() { fuzzes qmp; }

test_nothing_is_wrong_with_any() {
	[ $ran -eq 77 ] || assertEquals "$(cat "$SHUNIT_TMPDIR/said")" 0 $ran
}

. "$shunit"
