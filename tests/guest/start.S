/*
 * Entry of the test guest: by the PVH protocol for the first CPU, by SIPI for the others.
 *
 * PVH is the one way of booting that QEMU's -kernel offers on pc, q35 and microvm alike: it
 * enters at the address in the note below, in 32-bit protected mode, paging and interrupts off,
 * with the physical address of the start info in %ebx.
 *
 * There is no interrupt table: interrupts stay off, and any exception resets the machine, which
 * ends QEMU under -no-reboot. A guest that is gone has failed.
 */

	.macro FLAT			/* the data segments, the same for all CPUs */
	movl	$16, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	.endm

	.section .note.Xen, "a", @note
	.align	4
	.long	4			/* size of the name */
	.long	4			/* size of the value */
	.long	18			/* type: the 32-bit physical entry point */
	.asciz	"Xen"
	.long	start

	.text
	.globl	start
start:
	cli
	cld
	lgdt	gdt_pointer
	ljmp	$8, $1f
1:	FLAT
	movl	$stacks + STACK, %esp
	pushl	%ebx
	call	first_main		/* does not return */

/*
 * The other CPUs come here from real_start. There is no stack before each has taken a number:
 * the first CPU counted itself, so the numbers begin with 1.
 */
other:
	FLAT
	movl	$1, %eax
	lock xaddl %eax, cpus_up
	leal	1(%eax), %ecx
	imull	$STACK, %ecx
	leal	stacks(%ecx), %esp
	pushl	%eax
	call	other_main		/* does not return */

/*
 * Copied to a page below 1 MiB, where SIPI starts a CPU in real mode with %cs at that page and
 * %ip 0. Its addresses are therefore relative to its own start. INIT leaves the caches disabled
 * (CD and NW): both bits are cleared.
 */
	.globl	real_start, real_end
	.code16
real_start:
	cli
	cld
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	real_gdt_pointer - real_start
	movl	%cr0, %eax
	andl	$0x9fffffff, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$8, $other
	.align	4
real_gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
real_end:
	.code32

	.section .rodata
	.align	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* 8: code, flat, 32 bits */
	.quad	0x00cf93000000ffff	/* 16: data, flat */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt

	.section .note.GNU-stack, "", @progbits
