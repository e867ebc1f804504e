#!/bin/sh
# A guest and its disks come back as they were when they were taken, and a take or revert that fails costs
# neither: real QEMUs, the installed one and Debian's backported 10.0. What is demanded of each scenario
# is written in tests/take-roundtrip. More takes in a row: tests/matrix.

. "$(dirname "$0")/lib.sh"

real_qemus take-roundtrip

test_newer_qemu_is_tested_too() {
	[ -n "$newer" ] || missing="QEMU 10: $why_no_newer"
}

test_memory() {
	scenario --load=precopy,postcopy,postcopy=60
}

# Nobody tells of them.
test_huge_pages() {
	needs_huge_pages || return 0
	scenario --mem=128 --huge --load=precopy,postcopy,postcopy=60
}

test_all_that_goes_wrong() {
	scenario --what=trouble
}

test_disks() {
	scenario --what=disks --count=2
}

test_one_disk_or_none() {
	scenario_on "$installed" --what=disks --drives=qcow2 --count=1 --load=postcopy
	scenario_on "${newer:-$installed}" --what=disks --drives=raw --count=1
	scenario_on "${newer:-$installed}" --what=disks --drives=none --count=1
}

. "$shunit"
