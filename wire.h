/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * wire.h -- the numbers of QEMU's wire format, 6.0 to 10.x.
 */
#ifndef WIRE_H
#define WIRE_H

enum {
	ID_MAX = 255		/* bytes of the name of a section or a RAM block */
};

/* Types of top-level elements: QEMU_VM_* in migration/savevm.c. */
enum {
	VM_EOF = 0x00,
	VM_SECTION_START = 0x01,
	VM_SECTION_PART = 0x02,
	VM_SECTION_END = 0x03,
	VM_SECTION_FULL = 0x04,
	VM_SUBSECTION = 0x05,
	VM_VMDESCRIPTION = 0x06,
	VM_CONFIGURATION = 0x07,
	VM_COMMAND = 0x08,
	VM_SECTION_FOOTER = 0x7e
};

enum {
	SECTION_HEAD = 5,	/* bytes of PART and END: type and id; START and FULL have more */
	SECTION_FOOT = 5	/* VM_SECTION_FOOTER and the id once more */
};

/* Commands, as in enum qemu_vm_cmd there: this byte, the command, the length of its payload. */
enum {
	COMMAND_SIZE = 5	/* without payload */
};

enum {
	CMD_OPEN_RETURN_PATH = 1,
	CMD_PING = 2,
	CMD_POSTCOPY_ADVISE = 3,
	CMD_POSTCOPY_LISTEN = 4,
	CMD_POSTCOPY_RUN = 5,
	CMD_POSTCOPY_RAM_DISCARD = 6,
	CMD_PACKAGED = 7,
	CMD_POSTCOPY_RESUME = 9,
	CMD_RECV_BITMAP = 10,
	CMD_SWITCHOVER_START = 11
};

/* Flags of RAM records: RAM_SAVE_FLAG_* in migration/ram.c. */
enum {
	RAM_ZERO = 0x002,
	RAM_MEM_SIZE = 0x004,
	RAM_PAGE = 0x008,
	RAM_EOS = 0x010,
	RAM_CONTINUE = 0x020,
	RAM_XBZRLE = 0x040,
	RAM_HOOK = 0x080,
	RAM_COMPRESS_PAGE = 0x100,
	RAM_MULTIFD_FLUSH = 0x200
};

#endif
