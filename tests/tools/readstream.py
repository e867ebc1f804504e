#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""readstream.py -- an independent reader of QEMU migration streams.

Reads a background snapshot or an ordinary migration on standard input and
prints the final state of every page that came, in the order of blocks and
offsets: "BLOCK OFFSET zero" or "BLOCK OFFSET CRC32", both numbers in hex.
A page of data that is all zero is zero.  Any framing error, and anything of
which the length is not known, is a message and exit status 1.

    --order         the records in the order of arrival instead
    --count         totals instead: pages N data N zero N duplicates N parts N
    --rest=FILE     write all bytes that are not commands or RAM sections after
                    START to FILE: what a copy of the stream must have unchanged
    --page-size=N   of the target, where the stream does not tell (default 4096)
"""
import json
import sys
import zlib
from array import array
from struct import Struct

U16, U32, U64 = Struct('>H'), Struct('>I'), Struct('>Q')
START, PART, END, FULL, COMMAND = 1, 2, 3, 4, 8
ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
EARLY = '/virtio-mem-device-early'
SOURCE_COMMANDS = {1: (0,), 2: (4,), 3: (0,), 11: (0,)}


class Framing(Exception):
    pass


class Block:
    """A RAM block and what is known of its pages: 0 absent, 1 zero, CRC + 2."""

    def __init__(self, name, length, page_size):
        self.name, self.length = name, length
        self.state = array('Q', bytes(length // page_size * 8))


class Reader:
    def __init__(self, f, rest, order, page_size):
        self.f, self.rest, self.order, self.page_size = f, rest, order, page_size
        self.told = False           # the stream tells the page size
        self.offset = 0
        self.shared = False         # x-ignore-shared: blocks have addresses
        self.blocks = {}
        self.handlers = {}          # section id -> name
        self.current = None         # block that CONTINUE refers to
        self.early = []             # (name, instance) of early sections
        self.duplicates = self.parts = 0

    # ---- bytes ----

    def raw(self, n):
        b = self.f.read(n)
        self.offset += len(b)
        if len(b) != n:
            raise Framing('the stream ends early')
        return b

    def keep(self, n):
        b = self.raw(n)
        self.rest.write(b)
        return b

    def name(self, get):
        n = get(1)[0]
        if n == 0:
            raise Framing('empty name')
        b = get(n)
        if 0 in b:
            raise Framing('name with a NUL byte')
        return b.decode('utf-8', 'surrogateescape')

    def u32(self, get):
        return U32.unpack(get(4))[0]

    def u64(self, get):
        return U64.unpack(get(8))[0]

    # ---- configuration ----

    def configuration(self):
        """Read up to the type of the first element, which is returned."""
        if self.keep(8) != b'QEVM\0\0\0\3':
            raise Framing('not a stream of version 3')
        if self.keep(1) != b'\7':
            raise Framing('no configuration section')
        n = self.u32(self.keep)
        if n > 255:
            raise Framing('long machine name')
        self.keep(n)
        while (kind := self.raw(1)) == b'\5':
            self.rest.write(kind)
            name = self.name(self.keep)
            if self.u32(self.keep) != 1:
                raise Framing(f'{name}: unknown version')
            if name == 'configuration/target-page-bits':
                self.page_size = 1 << self.u32(self.keep)
                if not 1024 <= self.page_size <= 65536:
                    raise Framing('impossible target page size')
                self.told = True
            elif name == 'configuration/capabilities':
                for _ in range(self.u32(self.keep)):
                    cap = self.name(self.keep)
                    if cap != 'x-ignore-shared':
                        raise Framing(f'capability {cap}')
                    self.shared = True
            elif name == 'configuration/uuid':
                self.keep(16)
            else:
                raise Framing(f'unknown subsection {name}')
        return kind[0]

    # ---- sections ----

    def full_header(self):
        sid = self.u32(self.keep)
        return (sid, self.name(self.keep), self.u32(self.keep), self.u32(self.keep))

    def footer(self, get, sid):
        if get(5) != b'\x7e' + U32.pack(sid):
            raise Framing(f'no footer of section {sid}')

    def start(self):
        sid, name, _, version = self.full_header()
        if sid == 0 or sid in self.handlers or name in self.handlers.values():
            raise Framing(f'{name}: begins twice, or has a bad section id {sid}')
        self.handlers[sid] = name
        if name == 'ram':
            if version != 4:
                raise Framing(f'ram: version {version}')
            self.block_list()
        else:
            self.iterable(name)
        self.footer(self.keep, sid)

    def block_list(self):
        word = self.u64(self.keep)
        left = word & -self.page_size
        if word - left != MEM_SIZE:
            raise Framing('ram: no list of blocks')
        while left > 0:
            name = self.name(self.keep)
            length = self.u64(self.keep)
            if name in self.blocks:
                raise Framing(f'block {name} twice')
            if length == 0 or length % self.page_size or length > left:
                raise Framing(f'block {name}: bad length {length}')
            if self.shared:
                self.keep(8)
            self.blocks[name] = Block(name, length, self.page_size)
            left -= length
        if self.u64(self.keep) != EOS:
            raise Framing('ram: list of blocks does not end')

    def iterable(self, name):
        get = self.keep
        if name == 'dirty-bitmap':
            while True:
                flags = get(1)[0]
                if flags & 0x80:
                    raise Framing(f'{name}: flags {flags:#x}')
                for bit in (0x08, 0x04):
                    if flags & bit:
                        self.name(get)
                if flags & 0x01:
                    return
                if flags & 0x10:
                    get(5)
                elif flags & 0x40:
                    get(12)
                    if not flags & 0x02:
                        get(self.u64(get))
                elif not flags & 0x20:
                    raise Framing(f'{name}: flags {flags:#x}')
        elif name == 'spapr/htab':
            if self.u32(get) != 0:
                return
            while (chunk := get(8)) != bytes(8):
                get(U16.unpack_from(chunk, 4)[0] * 16)
        elif name == 's390-storage_attributes':
            while (flags := self.u64(get) & 0xfff) != 0x01:
                if flags == 0x02:
                    get(self.u64(get))
                elif flags != 0x08:
                    raise Framing(f'{name}: flags {flags:#x}')
        else:
            raise Framing(f'section {name} is not known')

    def early_full(self):
        sid, name, instance, version = self.full_header()
        if not name.endswith(EARLY) or version != 1:
            raise Framing(f'section {name} before the first page')
        body = self.keep(36)
        region, size = U64.unpack_from(body, 8)[0], U64.unpack_from(body, 16)[0]
        if size == 0:
            raise Framing(f'{name}: block size 0')
        self.keep((region // size + 63) // 64 * 8)
        self.footer(self.keep, sid)
        self.early.append((name, instance))

    def command(self):
        cmd, n = U16.unpack(self.raw(2))[0], U16.unpack(self.raw(2))[0]
        if n not in SOURCE_COMMANDS.get(cmd, ()):
            raise Framing(f'command {cmd} of {n} bytes')
        self.raw(n)

    # ---- pages ----

    def ram(self, sid):
        page_size, mask, zeros = self.page_size, self.page_size - 1, bytes(self.page_size)
        block = self.current
        while (word := U64.unpack(self.raw(8))[0]) != EOS:
            offset, flags = word & ~mask, word & mask
            if flags & ~CONTINUE not in (PAGE, ZERO):
                raise Framing(f'record with flags {flags:#x}')
            if not flags & CONTINUE:
                name = self.name(self.raw)
                block = self.blocks.get(name)
                if block is None:
                    raise Framing(f'page of unknown block {name}')
            elif block is None:
                raise Framing('the first page names no block')
            if offset >= block.length:
                raise Framing(f'page outside of block {block.name}')
            if flags & PAGE:
                data = self.raw(page_size)
                state = 1 if data == zeros else zlib.crc32(data) + 2
            else:
                state = 1
                if self.raw(1) != b'\0':
                    raise Framing('page filled with something else than zero')
            index = offset // page_size
            self.duplicates += block.state[index] != 0
            block.state[index] = state
            if self.order:
                show(block.name, offset, state)
        self.current = block
        self.footer(self.raw, sid)

    # ---- the tail ----

    def description(self, tail):
        """Where the devices in tail end, and what JSON follows, or None."""
        p = tail.find(b'\0\6', 5)
        while 0 <= p < len(tail) - 6:
            if (tail[p - 5] == 0x7e and tail[p + 6] == 0x7b and
                    U32.unpack_from(tail, p + 2)[0] == len(tail) - p - 6):
                return p, json.loads(tail[p + 6:])
            p = tail.find(b'\0\6', p + 1)
        if len(tail) > 6 and tail[-1] == 0 and tail[-6] == 0x7e:
            return len(tail) - 1, None
        raise Framing('the stream ends inside of the device state')

    def tail(self):
        tail = bytes((FULL,)) + self.f.read()
        self.offset += len(tail) - 1
        self.rest.write(tail)
        end, info = self.description(tail)
        if info is None:
            return
        if info['page_size'] != self.page_size:
            raise Framing(f"the description says page_size {info['page_size']}")
        devices = [(d['name'], d['instance_id']) for d in info['devices']]
        if devices[:len(self.early)] != self.early:
            raise Framing('the description does not begin with the early sections')
        at, sid = 0, None
        for name, instance in devices[len(self.early):]:
            head = bytes((len(name),)) + name.encode() + U32.pack(instance)
            if sid is not None:
                # No length is told: look for a footer and this very header.
                at = tail.find(sid, at)
                while at >= 0 and (tail[at + 5:at + 6] != b'\4' or
                                   not tail.startswith(head, at + 10)):
                    at = tail.find(sid, at + 1)
                at += 5
            if at < 0 or at >= end or not tail.startswith(head, at + 5):
                raise Framing(f'device {name} is described but not there')
            sid = b'\x7e' + tail[at + 1:at + 5]
        if sid is None or tail[end - 5:end] != sid:
            raise Framing('devices and their description do not end together')

    def run(self):
        kind = self.configuration()
        while kind != FULL or self.parts == 0:
            if kind == COMMAND:
                self.command()
            elif kind == START and self.parts == 0:
                self.rest.write(b'\1')
                self.start()
            elif kind == FULL:
                self.rest.write(b'\4')
                self.early_full()
            elif kind in (PART, END):
                sid = self.u32(self.raw)
                name = self.handlers.get(sid)
                if name is None:
                    raise Framing(f'section {sid} never began')
                if name == 'ram':
                    self.parts += kind == PART
                    self.ram(sid)
                else:
                    self.rest.write(bytes((kind,)) + U32.pack(sid))
                    self.iterable(name)
                    self.footer(self.keep, sid)
            else:
                raise Framing(f'element {kind:#x} out of place')
            kind = self.raw(1)[0]
        self.tail()


def show(name, offset, state):
    print(f'{name} {offset:x}', 'zero' if state == 1 else f'{state - 2:08x}')


class Nowhere:
    def write(self, b):
        pass


def main(args):
    rest, order, count, page_size = Nowhere(), False, False, 4096
    for a in args:
        if a == '--order':
            order = True
        elif a == '--count':
            count = True
        elif a.startswith('--rest='):
            rest = open(a[7:], 'wb')
        elif a.startswith('--page-size='):
            page_size = int(a[12:])
        else:
            sys.exit(f'readstream.py: unknown option {a}')
    r = Reader(sys.stdin.buffer, rest, order, page_size)
    try:
        r.run()
    except (Framing, ValueError, KeyError) as e:
        sys.exit(f'readstream.py: before offset {r.offset}: {e}')
    if count:
        zero = sum(b.state.count(1) for b in r.blocks.values())
        pages = sum(len(b.state) - b.state.count(0) for b in r.blocks.values())
        print(f'pages {pages} data {pages - zero} zero {zero} '
              f'duplicates {r.duplicates} parts {r.parts}')
    elif not order:
        for b in r.blocks.values():
            for i, state in enumerate(b.state):
                if state:
                    show(b.name, i * r.page_size, state)


if __name__ == '__main__':
    main(sys.argv[1:])
