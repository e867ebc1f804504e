#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Make images that are wrong in one way each: all checksums around the lie are right.

usage: badimage.py IMAGE        writes KIND.bad for each kind of lie, and prints a line with the kind
                                and words of the message it should get

IMAGE is that of tinystream.py with --unit-pages=2 and --reproducible.

The offsets are those of the example in format.md.
"""

import struct
import sys

DATA, UNITS, LEAF, NODE, ROOT, MAP, TAIL = 4096, 5120, 5186, 7282, 7330, 7378, 7517
END = {UNITS: LEAF, LEAF: NODE, NODE: ROOT, ROOT: MAP}
SECTION = 112           # of the footer; entries of 32 bytes: type, crc, off, len, extra
UNIT_SEC, LEAF_SEC, NODE_SEC, ROOT_SEC, MAP_SEC, TAIL_SEC = 1, 2, 3, 4, 5, 8

table = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
    table.append(n)


def crc(data):
    c = 0xffffffff
    for b in data:
        c = c >> 8 ^ table[(c ^ b) & 0xff]
    return c ^ 0xffffffff


class Image:
    def __init__(self, data):
        self.b = bytearray(data)

    def put(self, at, fmt, *values):
        struct.pack_into('<' + fmt, self.b, at, *values)

    def part(self, at, end=None):
        """Make the checksum of the part at `at` right."""
        end = end or END[at]
        self.put(at, 'I', crc(self.b[at + 4:end]))

    def header(self):
        self.put(4092, 'I', crc(self.b[:4092]))
        self.footer_put(100, 'I', crc(self.b[:4092]))

    def footer_at(self):
        return len(self.b) - 4096

    def footer_put(self, at, fmt, *values):
        self.put(self.footer_at() + at, fmt, *values)
        self.put(len(self.b) - 4, 'I', crc(self.b[self.footer_at():-4]))

    def section(self, index, field, value):
        at = {'type': 0, 'crc': 4, 'off': 8, 'len': 16, 'extra': 24}[field]
        self.footer_put(SECTION + 32 * index + at, 'I' if at < 8 else 'Q', value)

    def map_crc(self):
        self.section(MAP_SEC, 'crc', crc(self.b[MAP:MAP + 34]))

    def poke(self, at, value, part):
        self.b[at] = value
        self.part(part)

    def head_field(self, at, fmt, value):
        self.put(at, fmt, value)
        self.header()


def tag_of_another(i):
    i.b[UNITS + 8] ^= 1
    i.part(UNITS)


def map_bytes(at, fmt, value):
    def change(i):
        i.put(MAP + at, fmt, value)
        i.map_crc()
    return change


def head(at, fmt, value):
    return lambda i: i.head_field(at, fmt, value)


def foot(at, fmt, value):
    return lambda i: i.footer_put(at, fmt, value)


def sec(index, field, value):
    return lambda i: i.section(index, field, value)


def poke(at, value, part):
    return lambda i: i.poke(at, value, part)


KINDS = {
    # header
    'head-incompat': (head(16, 'Q', 1 << 40), 'features this version does not know: 0x10000000000'),
    'head-incompat-named': (head(16, 'Q', 3), '0x3 (a base image) (compression)'),
    'head-page-size-0': (head(32, 'I', 0), 'impossible page size'),
    'head-page-size-odd': (head(32, 'I', 1025), 'impossible page size'),
    'head-page-size-huge': (head(32, 'I', 1 << 31), 'impossible page size'),
    'head-unit-0': (head(36, 'I', 0), 'impossible unit size'),
    'head-unit-huge': (head(36, 'I', 512), 'impossible unit size'),
    'head-unit-other': (head(36, 'I', 4), 'unit table is not as long as it should be'),
    'head-cluster-0': (head(40, 'I', 0), 'impossible cluster size'),
    'head-cluster-huge': (head(40, 'I', 1 << 25), 'impossible cluster size'),
    'head-data': (head(44, 'I', 8192), 'impossible start of the data'),
    'head-reserved': (head(4000, 'I', 1), 'reserved bytes of the header'),
    # footer
    'foot-length': (foot(16, 'Q', 1 << 63), 'not as long as its footer says'),
    'foot-pages': (foot(56, 'Q', 1 << 63), 'impossible number of pages'),
    'foot-pages-other': (foot(56, 'Q', 3), 'RAM map and footer do not agree'),
    'foot-stored': (foot(64, 'Q', 0xffffffffffffffff), 'impossible number of pages'),
    'foot-stored-0': (foot(64, 'Q', 0), 'room in the data that belongs to no page'),
    'foot-zero-huge': (foot(72, 'Q', 0xffffffffffffffff), 'impossible number of pages'),
    'foot-zero-0': (foot(72, 'Q', 0), 'do not agree on the number of pages'),
    'foot-ancestor': (lambda i: (i.footer_put(72, 'Q', 0), i.footer_put(80, 'Q', 1)),
                      'in another image'),
    'foot-slots': (foot(88, 'Q', 1 << 39), 'room in the data that belongs to no page'),
    'foot-slots-and-stored': (lambda i: (i.footer_put(88, 'Q', 2), i.footer_put(64, 'Q', 2),
                                         i.footer_put(72, 'Q', 0)),
                              'data is not as long as it should be'),
    'foot-flags': (foot(96, 'I', 0x80), 'reserved bits of the footer'),
    'foot-shared': (foot(96, 'I', 2), 'RAM map and footer do not agree'),
    'foot-header-crc': (foot(100, 'I', 0), 'not of one image'),
    'foot-sections-0': (foot(104, 'I', 0), 'of the footer'),
    'foot-sections-huge': (foot(104, 'I', 0xffffffff), 'impossible number of sections'),
    'foot-sections-more': (foot(104, 'I', 10), 'sections do not fill the file'),
    'foot-reserved': (foot(3000, 'I', 1), 'reserved bytes of the footer'),
    # sections
    'sec-type-0': (sec(1, 'type', 0), 'unknown kind of table'),
    'sec-type-9': (sec(1, 'type', 9), 'unknown kind of table'),
    'sec-twice': (sec(2, 'type', 2), 'a section is there twice'),
    'sec-missing': (sec(MAP_SEC, 'type', 30), 'a section is missing'),
    'sec-table-crc': (sec(1, 'crc', 1), 'reserved field of a section'),
    'sec-extra': (sec(1, 'extra', 1), 'reserved field of a section'),
    'sec-off': (sec(1, 'off', 4096), 'sections do not fill the file'),
    'sec-len-huge': (sec(1, 'len', 0xffffffffffffff00), 'sections do not fill the file'),
    'sec-crc': (sec(6, 'crc', 0), 'section fails its checksum'),
    'tail-split-0': (sec(TAIL_SEC, 'extra', 0), 'impossible length of the device state'),
    'tail-split-end': (sec(TAIL_SEC, 'extra', 25), 'impossible length of the device state'),
    'tail-split-other': (sec(TAIL_SEC, 'extra', 4), 'does not end where it should'),
    # RAM map
    'map-blocks-0': (map_bytes(0, 'I', 0), 'RAM map is damaged'),
    'map-blocks-2': (map_bytes(0, 'I', 2), 'RAM map is damaged'),
    'map-blocks-huge': (map_bytes(0, 'I', 0xffffffff), 'RAM map is damaged'),
    'map-pages': (map_bytes(8, 'Q', 3), 'RAM map is damaged'),
    'map-name-0': (map_bytes(16, 'B', 0), 'RAM map is damaged'),
    'map-name-long': (map_bytes(16, 'B', 255), 'RAM map is damaged'),
    'map-name-nul': (map_bytes(17, 'B', 0), 'RAM map is damaged'),
    'map-length-0': (map_bytes(18, 'Q', 0), 'RAM map is damaged'),
    'map-length-odd': (map_bytes(18, 'Q', 2049), 'RAM map is damaged'),
    'map-length-huge': (map_bytes(18, 'Q', 1 << 63), 'RAM map is damaged'),
    'map-address': (map_bytes(26, 'Q', 0), 'RAM map and footer do not agree'),
    # table parts
    'part-tag': (tag_of_another, 'belongs to another image'),
    'part-kind': (poke(LEAF + 4, 2, LEAF), 'not the one that belongs here'),
    'part-index': (poke(NODE + 16, 1, NODE), 'not the one that belongs here'),
    'part-length': (poke(ROOT + 24, 0x40, ROOT), 'not the one that belongs here'),
    'root-count': (poke(ROOT + 28, 2, ROOT), 'node of another length'),
    'root-padding': (poke(ROOT + 47, 1, ROOT), 'padding of a node'),
    'root-first': (poke(ROOT + 32, 0x62, ROOT), 'outside of its table'),
    'root-first-huge': (poke(ROOT + 39, 0xff, ROOT), 'outside of its table'),
    'root-word': (poke(ROOT + 41, 0xff, ROOT), 'outside of its table'),
    'node-first-huge': (poke(NODE + 39, 0xff, NODE), 'outside of its table'),
    'node-word-short': (poke(NODE + 40, 0x82, NODE), 'fails its checksum'),
    'node-word-zero': (poke(NODE + 40, 1, NODE), 'do not agree'),
    'node-word-absent': (poke(NODE + 40, 0, NODE), 'do not agree'),
    'node-padding': (poke(NODE + 47, 1, NODE), 'padding of a node'),
    'leaf-count': (poke(LEAF + 28, 2, LEAF), 'entries too many or too few'),
    'leaf-beyond': (poke(LEAF + 32, 0x16, LEAF), 'pages the guest does not have'),
    'leaf-more-stored': (poke(LEAF + 32, 0x0a, LEAF), 'entries too many or too few'),
    'leaf-ancestor': (poke(LEAF + 32, 0x07, LEAF), 'in another image'),
    'leaf-entry-huge': (poke(LEAF + 2080 + 4, 0xff, LEAF), 'outside of the data'),
    'leaf-padding': (poke(NODE - 1, 1, LEAF), 'padding of a page leaf'),
    'leaf-swapped': (poke(LEAF + 32, 0x09, LEAF), 'do not agree'),
    # units
    'unit-count': (poke(UNITS + 28, 2, UNITS), 'units too many or too few'),
    'unit-off': (poke(UNITS + 33, 0x14, UNITS), 'outside of the data'),
    'unit-off-huge': (poke(UNITS + 37, 0xff, UNITS), 'outside of the data'),
    'unit-off-odd': (poke(UNITS + 32, 1, UNITS), 'outside of the data'),
    'unit-codec': (poke(UNITS + 38, 1, UNITS), 'coded in a way this version does not know'),
    'unit-slots': (poke(UNITS + 39, 1, UNITS), 'outside of the data'),
    'unit-slots-huge': (poke(UNITS + 39, 255, UNITS), 'outside of the data'),
    'unit-length': (poke(UNITS + 41, 8, UNITS), 'outside of the data'),
    'unit-crc': (poke(UNITS + 44, 0, UNITS), 'unit record and its slots do not agree'),
    'slot-page-other': (poke(UNITS + 48, 1, UNITS), 'do not agree'),
    'slot-page-huge': (poke(UNITS + 52, 0xff, UNITS), 'names a page the guest does not have'),
    'slot-crc': (poke(UNITS + 53, 0, UNITS), 'fails its checksum'),
    'slot-unused': (poke(UNITS + 57, 1, UNITS), 'unused slot of a unit'),
    'page': (lambda i: i.put(DATA + 100, 'B', 0), 'block m offset 0x0: page fails its checksum'),
}


def main():
    with open(sys.argv[1], 'rb') as f:
        data = f.read()
    for kind, (change, words) in KINDS.items():
        image = Image(data)
        change(image)
        with open(kind + '.bad', 'wb') as f:
            f.write(image.b)
        print(kind, words)


main()
