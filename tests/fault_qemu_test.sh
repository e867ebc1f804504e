#!/bin/sh
# Real QEMUs whose helper is killed, whose disk is full, whose image is damaged: small guests, one of
# each. What is demanded of each scenario is written in tests/faults, the long runs are in
# tests/matrix-faults.

. "$(dirname "$0")/lib.sh"

oneTimeSetUp() {
	work=$SHUNIT_TMPDIR
	installed=$(command -v qemu-system-x86_64)
	newer=$(sh "$TESTS/get-qemu10" 2>"$work/get") || newer=
	why_no_newer=$(tail -n 1 "$work/get")
}

setUp() {
	missing=
}

# At most one notice for a test, however many scenarios it has.
tearDown() {
	[ -z "${missing-}" ] || echo "SKIP $missing"
	missing=
}

# scenario ARG...: on every QEMU there is.
scenario() {
	scenario_on "$installed $newer" "$@"
}

scenario_on() {
	scenario_qemus=$1
	shift
	for qemu in $scenario_qemus; do
		"$TESTS/faults" --qemu="$qemu" --snap="$SNAP" --mem=64 --timeout=300 "$@" \
			>"$work/out" 2>"$work/err"
		code=$?
		cat "$work/out"
		case $code in
		0) ;;
		77) missing=$(tail -n 1 "$work/err") ;;
		*) cat "$work/err" ;;
		esac
		[ $code -eq 77 ] || assertEquals "$qemu $*: exit status" 0 $code
	done
	[ -n "$installed$newer" ] || missing="no QEMU"
}

test_newer_qemu_is_tested_too() {
	[ -n "$newer" ] || missing="QEMU 10: $why_no_newer"
}

test_page_server_killed_while_the_guest_runs() {
	scenario resume --count=1 --twice
}

# Where it costs the most: the older QEMU.
test_page_server_killed_before_the_guest_runs() {
	scenario_on "${installed:-$newer}" early
}

test_damaged_page_is_not_fed_to_the_guest() {
	scenario corrupt
}

test_wrong_recoveries_cost_nothing() {
	scenario wrong --brief
}

test_guest_survives_a_killed_saver() {
	scenario kill-save --count=1
}

test_guest_survives_a_saver_that_is_told_to_end() {
	scenario kill-save --count=1 --signal=TERM
}

test_guest_survives_a_killed_saver_without_a_guard() {
	scenario_on "${installed:-$newer}" kill-save --count=1 --oneliner
}

test_guest_survives_a_full_disk() {
	scenario_on "${installed:-$newer}" full --brief --settle=1
}

test_guest_survives_failing_calls() {
	scenario errors --brief --settle=1
}

. "$shunit"
