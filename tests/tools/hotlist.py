#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Hot lists, as format.md has them.

usage: hotlist.py show FILE IMAGE        the pages, one a line, if all is right
       hotlist.py make FILE IMAGE PAGE...
       hotlist.py slots IMAGE            the page in each slot, in the order of the file
"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import readimg  # noqa: E402

MAGIC = b'qemu-snap hot 1\n'


def uuid(path):
    with open(path, 'rb') as f:
        f.seek(-4096 + 32, os.SEEK_END)
        return f.read(16)


def encode(image, pages):
    b = MAGIC + uuid(image) + len(pages).to_bytes(8, 'little')
    b += b''.join(p.to_bytes(5, 'little') for p in pages)
    return b + readimg.crc32c(b).to_bytes(4, 'little')


def show(path, image):
    with open(path, 'rb') as f:
        b = f.read()
    pages = [int.from_bytes(b[i:i + 5], 'little') for i in range(40, len(b) - 4, 5)]
    if b != encode(image, pages):
        sys.exit('%s: not what it should be' % path)
    return pages


def slots(image):
    img = readimg.Image(image)
    pages, _, _ = readimg.check_unit_table(img)
    return [p for p in pages if p < readimg.DEAD]


def main(what, *args):
    if what == 'make':
        with open(args[0], 'wb') as f:
            f.write(encode(args[1], [int(p) for p in args[2:]]))
        return
    for page in {'show': show, 'slots': slots}[what](*args):
        print(page)


main(*sys.argv[1:])
