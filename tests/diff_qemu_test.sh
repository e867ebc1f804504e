#!/bin/sh
# Real QEMUs: between snapshots of a guest that tells which pages were written to, diff names just
# these. What is demanded is written in tests/changes.

. "$(dirname "$0")/lib.sh"

real_qemus changes

test_newer_qemu_is_tested_too() {
	[ -n "$newer" ] || missing="QEMU 10: $why_no_newer"
}

test_pc() {
	scenario
}

test_q35() {
	scenario --machine=q35
}

# None of them writes to the guest's memory unasked.
test_all_kinds_of_devices() {
	scenario --devices=full
}

test_compressed() {
	needs_zstd || return 0
	scenario --save-args=--compress=zstd
}

. "$shunit"
