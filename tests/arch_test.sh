#!/bin/sh
# Guests of all architectures that QEMU has, with a loop that lets each page of an image be judged:
# saved while they run, in both ways, and reverted in both ways; or refused by QEMU, in the words
# that are known. What is demanded of each is written in tests/arch.

. "$(dirname "$0")/lib.sh"

real_qemus arch

# guest MACHINE [ARG...]: on the installed QEMU.
guest() {
	installed=$(command -v "qemu-system-${1%%:*}") newer=
	scenario_on "$installed" "$@"
}

# The same on the newer one, too, as that of Debian 12 does not live through it.
newer_guest() {
	guest "$@"
	newer=$(sh "$TESTS/get-qemu10" "${1%%:*}" 2>"$work/get") || newer=
	scenario_on "$newer" "$@"
	[ -n "$newer" ] || missing="QEMU 10: $(tail -n 1 "$work/get")"
}

test_i386() { guest i386:pc; }
test_x86_64_with_a_dirty_bitmap() { guest "x86_64:pc with a dirty bitmap"; }
test_aarch64() { guest aarch64:virt; }
test_arm() { guest arm:virt; }
test_arm_with_pages_of_1_KiB() { guest arm:imx25-pdk; }
test_riscv64() { guest riscv64:virt; }
test_riscv32() { guest riscv32:virt; }
test_s390x() { guest s390x:s390-ccw-virtio; }
test_ppc64() { guest ppc64:pseries; }
test_ppc64_with_radix_page_tables() { guest "ppc64:pseries with radix page tables"; }
test_ppc() { guest ppc:g3beige; }
test_m68k() { guest m68k:virt; }
test_mips() { guest mips:malta; }
test_mipsel() { guest mipsel:malta; }
test_mips64() { guest mips64:malta; }
test_mips64el() { guest mips64el:malta; }
test_sparc() { guest sparc:SS-5; }
test_sparc64() { newer_guest sparc64:sun4u; }
test_sparc64_whose_page_size_is_told() { newer_guest sparc64:sun4u --page-size; }
test_alpha() { newer_guest alpha:clipper; }
test_or1k() { newer_guest or1k:or1k-sim; }
test_loongarch64() { newer_guest loongarch64:virt; }
test_tricore() { newer_guest tricore:tricore_testboard; }
test_cris() { guest cris:axis-dev88; }
test_hppa() { guest hppa:hppa; }
test_microblaze() { guest microblaze:petalogix-s3adsp1800; }
test_microblazeel() { guest microblazeel:petalogix-ml605; }
test_nios2() { guest nios2:10m50-ghrd; }
test_rx() { guest rx:gdbsim-r5f562n7; }
test_sh4() { guest sh4:r2d; }
test_sh4eb() { guest sh4eb:r2d; }
test_xtensa() { guest xtensa:sim; }
test_xtensaeb() { guest xtensaeb:sim; }

. "$shunit"
