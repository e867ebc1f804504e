#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Shorten a stream of QEMU's to an input for the fuzzers.

usage: shorten.py CAPTURE >INPUT

Of its RAM section the first few pages stay, of each kind one, all else is as QEMU wrote it. Take a
guest with little device state (-nodefaults -machine ...,suppress-vmdesc=on): the fuzzers' inputs
have 56000 bytes at most. The result is seeds/NAME, one byte before it: how it is to be read.
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
import readstream

PAGES = {readstream.PAGE: 2, readstream.ZERO: 4}


class Shortener(readstream.Reader):
    """Remembers what may go: (from, to) in the stream."""

    def __init__(self, f):
        super().__init__(f, readstream.Nowhere(), False, 4096)
        self.gaps, self.left = [], dict(PAGES)

    def ram(self, sid):
        mask = self.page_size - 1
        named = set()
        block = b''
        while True:
            start = self.offset
            word = readstream.U64.unpack(self.raw(8))[0]
            if word == readstream.EOS:
                break
            flags = word & mask
            if not flags & readstream.CONTINUE:
                block = self.raw(self.raw(1)[0])
            kind = flags & (readstream.PAGE | readstream.ZERO)
            self.raw(self.page_size if kind == readstream.PAGE else 1)
            # The first of a block has its name, which those that follow may need.
            if self.left[kind] > 0 or block not in named:
                self.left[kind] -= 1
                named.add(block)
            else:
                self.gaps.append((start, self.offset))
        self.footer(self.raw, sid)


def main():
    with open(sys.argv[1], 'rb') as f:
        s = Shortener(f)
        s.run()
        f.seek(0)
        data = f.read()
    out, at = b'\x08', 0
    for start, end in s.gaps:
        out, at = out + data[at:start], end
    sys.stdout.buffer.write(out + data[at:])


main()
