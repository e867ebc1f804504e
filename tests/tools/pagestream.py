#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Write a stream of just these pages, in this order.

usage: pagestream.py [--return-path] PAGE_SIZE BLOCK:PAGES[,BLOCK:PAGES...] [PAGE=WHAT...]

PAGE counts through all blocks; a page may come again. WHAT is what it holds: z zero, as a record
without bytes; xHH this byte throughout; rN random bytes of seed N; cN such that compress; @FILE
the bytes of a file. Pages not told of never come. A background snapshot, with one device and no JSON
description; --return-path: it has the command OPEN_RETURN_PATH.
"""

import bisect
import random
import struct
import sys

FOOTER = b'\x7e'
RAM, DEVICE = struct.pack('>I', 1), struct.pack('>I', 7)
PAGE, ZERO, MEM_SIZE, EOS = 0x08, 0x02, 0x04, 0x10


def word(value):
    return struct.pack('>Q', value)


def name(text):
    return bytes([len(text)]) + text.encode()


def content(what):
    kind, arg = what[0], what[1:]
    if kind == 'x':
        return bytes([int(arg, 16)]) * page_size
    if kind == 'r':
        return random.Random(int(arg)).randbytes(page_size)
    if kind == 'c':
        return bytes(b & 15 for b in random.Random(int(arg)).randbytes(page_size))
    with open(arg, 'rb') as f:
        return f.read().ljust(page_size, b'\0')[:page_size]


opening = sys.argv[1] == '--return-path'
del sys.argv[1:1 + opening]
page_size = int(sys.argv[1])
blocks, firsts, total = [], [], 0
for item in sys.argv[2].split(','):
    block, pages = item.rsplit(':', 1)
    blocks.append((block, int(pages) * page_size))
    firsts.append(total)
    total += int(pages)
out = sys.stdout.buffer
out.write(b'QEVM' + struct.pack('>I', 3) + b'\x07' + struct.pack('>I', 4) + b'none' +
          b'\x05' + name('configuration/target-page-bits') +
          struct.pack('>II', 1, page_size.bit_length() - 1) + b'\x08\0\1\0\0' * opening)
out.write(b'\x01' + RAM + name('ram') + struct.pack('>II', 0, 4) +
          word(total * page_size | MEM_SIZE) +
          b''.join(name(b) + word(n) for b, n in blocks) + word(EOS) + FOOTER + RAM)
out.write(b'\x02' + RAM)
for item in sys.argv[3:]:
    page, what = item.split('=', 1)
    at = bisect.bisect(firsts, int(page)) - 1
    block, offset = blocks[at][0], (int(page) - firsts[at]) * page_size
    if what == 'z':
        out.write(word(offset | ZERO) + name(block) + b'\0')
    else:
        out.write(word(offset | PAGE) + name(block) + content(what))
out.write(word(EOS) + FOOTER + RAM)
out.write(b'\x04' + DEVICE + name('d') + struct.pack('>II', 0, 1) + b'\1\2\3\4' +
          FOOTER + DEVICE + b'\0')
