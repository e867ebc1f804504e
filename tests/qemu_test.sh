#!/bin/sh
# Real QEMUs, the installed one and Debian's backported 10.0, with a guest that checks all its
# memory: saved while it runs, loaded in all three ways; and a guest that survives a tool which
# cannot do what it is asked to. What is demanded of each scenario is written in tests/roundtrip.

. "$(dirname "$0")/lib.sh"

all_loads=precopy,postcopy,postcopy=60,postcopy:stopped

real_qemus roundtrip

test_newer_qemu_is_tested_too() {
	[ -n "$newer" ] || missing="QEMU 10: $why_no_newer"
}

test_pc() {
	scenario --machine=pc --mem=96 --load=$all_loads,postcopy=60:stopped
}

test_q35_with_4_cpus() {
	scenario --machine=q35 --mem=64 --smp=4 --load=$all_loads
}

test_microvm() {
	scenario --machine=microvm --mem=64 --load=$all_loads
}

test_two_memory_backends() {
	scenario --mem=64 --backends=2 --load=$all_loads
}

test_all_kinds_of_devices() {
	scenario --mem=64 --devices=full --load=$all_loads
}

# The destination in huge pages, from a source without and with them; and one that was not told of.
test_huge_pages() {
	needs_huge_pages || return 0
	huge="--mem=128 --load=$all_loads,postcopy=60:stopped"
	scenario $huge --huge=load --postcopy-args=--host-page-size=2M
	scenario $huge --huge=both --machine=q35 --smp=4 --postcopy-args=--host-page-size=ram=2M
	[ -z "$missing" ] || return 0
	for qemu in $installed $newer; do
		"$TESTS/roundtrip" --qemu="$qemu" --snap="$SNAP" --mem=128 --huge=load --load=postcopy \
			>"$work/out" 2>"$work/err"
		assertEquals "$qemu" 1 $?
		assertContains "$(cat "$work/err")" "Postcopy needs matching RAM page sizes (s=1000 d=201000)"
		assertContains "$(cat "$work/err")" "qemu-snap: the destination closed the stream"
	done
}

# A block that is larger at the source than at the destination, which makes its own fit.
test_memory_that_is_resized() {
	head -c 60000 /dev/zero | tr '\0' x >"$work/table"
	tables=
	for sig in ONE1 TWO2 SIX6; do
		tables="$tables -acpitable sig=$sig,data=$work/table"
	done
	scenario --mem=64 --source-args="$tables" --load=$all_loads
}

# What is in a file that source and destination share is not in the image.
test_memory_that_is_shared() {
	scenario --mem=64 --kind=ordinary --ignore-shared --load=precopy
}

test_from_one_version_of_qemu_to_the_other() {
	if [ -z "$installed" ] || [ -z "$newer" ]; then
		missing="two versions of QEMU: $why_no_newer"
		return 0
	fi
	machine=$("$installed" -machine help | awk '$1 == "pc" { sub(/.*alias of /, ""); sub(/\)/, ""); print }')
	scenario_on "$installed" --mem=64 --machine="$machine" --load-qemu="$newer" \
		--devices=full --load=$all_loads
	scenario_on "$newer" --mem=64 --machine="$machine" --load-qemu="$installed" \
		--devices=full --load=$all_loads
}

# Linux, with memory that came or went while it ran. tests/matrix has both versions of QEMU.
test_memory_that_was_plugged_or_ballooned() {
	for kind in dimm virtio-mem balloon; do
		on_qemus "$installed" "$TESTS/linux-roundtrip" --memory=$kind --load=precopy,postcopy
	done
}

test_compressed() {
	needs_zstd || return 0
	scenario --mem=64 --save-args=--compress=zstd --load=$all_loads
	scenario --mem=64 --save-args=--compress=zstd --kind=ordinary --load=precopy,postcopy
}

test_with_a_base() {
	scenario --mem=64 --base-args= --load=$all_loads
}

test_compressed_with_a_base() {
	needs_zstd || return 0
	scenario --mem=64 --save-args=--compress=zstd --base-args=--compress=zstd --load=$all_loads
}

# Whoever wants to know how far it is may ask as often as they like.
test_in_a_storm_of_signals() {
	printf '#!/bin/sh\nexec python3 "%s" /dev/null "%s" "$@" 2>>"%s"\n' "$TOOLS/storm.py" "$SNAP" \
		"$work/answers" >"$work/stormy"
	chmod +x "$work/stormy"
	calm=$SNAP SNAP=$work/stormy
	scenario --mem=64 --load=$all_loads
	SNAP=$calm
	[ -n "$installed$newer" ] || return 0
	assertEquals "other words" "" \
		"$(grep -vE ": (save|load|check), |served in postcopy" "$work/answers")"
	assertContains "$(cat "$work/answers")" ": load, serving: "
}

test_ordinary_migration() {
	scenario --mem=64 --kind=ordinary --load=precopy,postcopy
}

test_ordinary_migration_with_return_path() {
	scenario --mem=64 --kind=ordinary --return-path --load=precopy,postcopy:stopped
}

# The guest must live on, whatever is wrong with the command line or the place of the image.
# What measures it goes with it: once, on small guests.
test_figures_can_be_measured() {
	command -v qemu-system-x86_64 >/dev/null || {
		missing="no qemu-system-x86_64 here"
		return 0
	}
	enter
	make -s -C "$TOP" bench/peer >err 2>&1 || fail "bench/peer: $(cat err)"
	TMPDIR=$dir python3 "$TOP/bench/bench" --snap="$SNAP" --mem=64 --runs=1 --plot=plot disk load qemu \
		>out 2>err
	ended 0 $? "$(cat err)"
	# Three of them with mapped-ram, which QEMU 9.0 brought.
	rows=$(grep -c '^| [a-z].* | 1 |$' out)
	assertTrue "$rows rows: $(cat out)" "[ $rows -eq 11 ] || [ $rows -eq 14 ]"
	leave
}

test_guest_survives_wrong_option() {
	scenario --mem=64 --fail='--bogus save {dir}/x'
}

test_guest_survives_unknown_verb() {
	scenario --mem=64 --fail='frobnicate {dir}/x'
}

test_guest_survives_missing_directory() {
	scenario --mem=64 --fail='save /nonexistent/x.snap'
}

test_guest_survives_image_that_is_a_directory() {
	scenario --mem=64 --fail='save {dir}'
}

test_guest_survives_image_that_outgrows_its_limit() {
	scenario --mem=64 --fail='--image-size=8M save {dir}/x'
}

# A QEMU that waits for a load must be told at once that there will be none.
test_load_of_missing_image_ends_at_once() {
	scenario --mem=64 --fail-load='load {dir}/missing'
	scenario --mem=64 --fail-load='--postcopy load {dir}/missing'
}

test_load_of_something_else_ends_at_once() {
	scenario --mem=64 --fail-load='load {dir}/guest.elf'
	scenario --mem=64 --fail-load='--postcopy load {dir}/guest.elf'
}

test_load_with_wrong_option_ends_at_once() {
	scenario --mem=64 --fail-load='--bogus load {dir}/x'
}

test_load_with_unknown_verb_ends_at_once() {
	scenario --mem=64 --fail-load='frobnicate {dir}/x'
}

. "$shunit"
