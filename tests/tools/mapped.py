#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Read a file that QEMU, or export, wrote with mapped-ram; or make one.

usage: mapped.py FILE           a line for each block: name, length, pages with a bit, SHA-256 of
                                what it holds (pages without one are zero)
       mapped.py --make STREAM FILE [KEY=VALUE...]
                                FILE of the pages of a stream. KEY: bitmap, pages (of the first
                                block: added to where they are), version, page_size, shared=1 (one
                                more capability), cut (length of FILE), background=1 (as QEMU
                                10.0 writes it then: no bit, no page, no END), tail_bits=1 (bits
                                behind the last page are set), omit=1 (the first block has no page),
                                align (of pages; default 1 MiB), word (of a record in the section)

Knows streams of mkstream and of QEMU in which RAM is the first section.
"""

import hashlib
import struct
import sys

ALIGN = 1 << 20
MAPPED = struct.Struct('>IQQQ')
CAPS = b'configuration/capabilities'


def u32(b, at):
    return struct.unpack_from('>I', b, at)[0]


def u64(b, at):
    return struct.unpack_from('>Q', b, at)[0]


def config_end(b):
    """(where subsections begin, [(at, length)...], where they end)"""
    assert b[:8] == b'QEVM\0\0\0\3' and b[8] == 7
    begin = at = 13 + u32(b, 9)
    found = []
    while b[at] == 5:
        n = b[at + 1]
        name, end = b[at + 2:at + 2 + n], at + 6 + n
        if name == CAPS:
            count, end = u32(b, end), end + 4
            for _ in range(count):
                end += 1 + b[end]
        else:
            end += {b'configuration/target-page-bits': 4, b'configuration/uuid': 16}[name]
        found.append((name, at, end))
        at = end
    return begin, found, at


def start_of_ram(b, at):
    assert b[at] == 1 and b[at + 5:at + 9] == b'\3ram', 'RAM is not the first section'
    return at + 17


def read(path):
    with open(path, 'rb') as f:
        head = f.read(ALIGN)
        _, subsections, at = config_end(head)
        caps = [head[a:e] for name, a, e in subsections if name == CAPS]
        assert caps and b'\x0amapped-ram' in caps[0], 'no mapped-ram'
        at = start_of_ram(head, at)
        left = u64(head, at) & ~0xfff
        f.seek(at + 8)
        while left:
            name = f.read(f.read(1)[0])
            length = struct.unpack('>Q', f.read(8))[0]
            version, page_size, bitmap_at, pages_at = MAPPED.unpack(f.read(MAPPED.size))
            assert version == 1 and bitmap_at == f.tell() and pages_at % ALIGN == 0
            npages = length // page_size
            bitmap = f.read((npages + 63) // 64 * 8)
            assert f.tell() <= pages_at < f.tell() + ALIGN
            digest, bits = hashlib.sha256(), 0
            f.seek(pages_at)
            for i in range(npages):
                page = f.read(page_size)
                there = bitmap[i // 8] >> i % 8 & 1
                bits += there
                assert there or not any(page), 'a page without a bit is not zero'
                digest.update(page)
            assert not any(bitmap[i // 8] >> i % 8 & 1 for i in range(npages, len(bitmap) * 8))
            print(name.decode('latin-1'), length, bits, digest.hexdigest())
            left -= length
        rest = f.read()
        assert rest[:9] == struct.pack('>QB', 16, 0x7e)


def make(stream, path, keys):
    align = keys.get('align', ALIGN)
    with open(stream, 'rb') as f:
        b = f.read()
    begin, subsections, after = config_end(b)
    assert not any(name == CAPS for name, _, _ in subsections)
    shared = keys.get('shared', 0)
    caps = [b'mapped-ram'] + [b'x-ignore-shared'] * shared
    head = b[:after] + bytes([5, len(CAPS)]) + CAPS + struct.pack('>II', 1, len(caps)) + b''.join(
        bytes([len(c)]) + c for c in caps)
    at = start_of_ram(b, after)
    blocks, pages = [], {}
    left, p = u64(b, at) & ~0xfff, at + 8
    while left:
        name = b[p + 1:p + 1 + b[p]]
        length = u64(b, p + 1 + b[p])
        blocks.append((name, length))
        left -= length
        p += 9 + b[p]
    assert u64(b, p) == 16
    footer = b[p:p + 13]
    p += 13
    now = None
    while b[p] in (2, 3):
        p += 5
        while u64(b, p) != 16:
            word = u64(b, p)
            p += 8
            if not word & 0x20:
                now, p = b[p + 1:p + 1 + b[p]], p + 1 + b[p]
            if word & 8:
                pages[now, word & ~0xfff], p = b[p:p + 4096], p + 4096
            else:
                pages.pop((now, word & ~0xfff), None)
                p += 1
        p += 13
    with open(path, 'wb') as out:
        out.write(head + b[after:at + 8])
        for i, (name, length) in enumerate(blocks):
            out.write(bytes([len(name)]) + name + struct.pack('>Q', length))
            out.write(struct.pack('>Q', i << 30) * shared)
            npages = length // 4096
            bits = [k for k in range(npages) if any(pages.get((name, k * 4096), b''))]
            if keys.get('background') or keys.get('omit') and i == 0:
                bits = []
            bitmap = bytearray((npages + 63) // 64 * 8)
            for k in bits:
                bitmap[k // 8] |= 1 << k % 8
            for k in range(npages, len(bitmap) * 8 * keys.get('tail_bits', 0)):
                bitmap[k // 8] |= 1 << k % 8
            bitmap_at = out.tell() + MAPPED.size
            pages_at = (bitmap_at + len(bitmap) + align - 1) // align * align
            first = i == 0
            out.write(MAPPED.pack(keys.get('version', 1), keys.get('page_size', 4096),
                                  bitmap_at + first * keys.get('bitmap', 0) & (1 << 64) - 1,
                                  pages_at + first * keys.get('pages', 0) & (1 << 64) - 1))
            out.write(bitmap)
            for k in bits:
                out.seek(pages_at + k * 4096)
                out.write(pages[name, k * 4096])
            out.seek(pages_at + length)
        sid = footer[-4:]
        end = b'' if keys.get('background') else b'\3' + sid + footer
        word = struct.pack('>Q', keys['word']) if 'word' in keys else b''
        out.write(footer + b'\2' + sid + word + footer + end + b[p:])
        if 'cut' in keys:
            out.truncate(keys['cut'])


def main():
    if sys.argv[1] == '--make':
        make(sys.argv[2], sys.argv[3], {k: int(v) for k, v in
                                        (w.split('=') for w in sys.argv[4:])})
    else:
        read(sys.argv[1])


main()
