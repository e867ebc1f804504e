#!/bin/sh
# Real QEMUs whose helper is killed, whose disk is full, whose image is damaged: small guests, one of
# each. What is demanded of each scenario is written in tests/faults, the long runs are in
# tests/matrix-faults.

. "$(dirname "$0")/lib.sh"

real_qemus faults --mem=64 --timeout=300

test_newer_qemu_is_tested_too() {
	[ -n "$newer" ] || missing="QEMU 10: $why_no_newer"
}

test_page_server_killed_while_the_guest_runs() {
	scenario resume --count=1 --twice
}

test_page_server_killed_with_huge_pages() {
	needs_huge_pages || return 0
	scenario resume --count=2 --huge=load --postcopy-args=--host-page-size=2M
}

test_page_server_killed_with_a_base() {
	scenario resume --count=1 --base-args=
	needs_zstd || return 0
	scenario resume --count=1 --save-args=--compress=zstd
	scenario resume --count=1 --save-args=--compress=zstd --base-args=--compress=zstd
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
