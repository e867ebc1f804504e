#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Make images that are wrong in one way each: all checksums around the lie are right.

usage: badimage.py plain|coded|based IMAGE
       badimage.py far IMAGE NEW

Writes KIND.bad for each kind of lie, and prints a line with the kind, the number of its rule in
format.md (0: not told) and words of the message it should get.

plain: IMAGE is the example of format.md, which tells the offsets. coded, based: those of
format_test.sh, which tells what is in them; the bases that based images are led to get the UUID of
the true one.

far: no lie. NEW is IMAGE, a raw one that was saved with --unit-pages=4, behind a hole of more than
4 GiB, a section of a kind that readers pass over; and it was made in the year 2242.
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


def foot(at, fmt, *values):
    return lambda i: i.footer_put(at, fmt, *values)


def sec(index, field, value):
    return lambda i: i.section(index, field, value)


def poke(at, value, part):
    return lambda i: i.poke(at, value, part)


KINDS = {
    # header
    'head-incompat': (head(16, 'Q', 1 << 40), 'features this version does not know: 0x10000000000'),
    'head-incompat-more': (head(16, 'Q', 3 | 1 << 2), 'features this version does not know: 0x4'),
    'head-ancestors': (head(16, 'Q', 1), 'do not agree on ancestors'),
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
    'foot-stored-0': (foot(64, 'Q', 0), 'impossible number of slots'),
    'foot-zero-huge': (foot(72, 'Q', 0xffffffffffffffff), 'impossible number of pages'),
    'foot-zero-0': (foot(72, 'Q', 0), 'do not agree on the number of pages'),
    'foot-ancestor': (lambda i: (i.footer_put(72, 'Q', 0), i.footer_put(80, 'Q', 1)),
                      'pages lie in another image, and none is named'),
    'foot-slots': (foot(88, 'Q', 1 << 39), 'impossible number of slots'),
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
    'leaf-ancestor': (poke(LEAF + 32, 0x07, LEAF), 'lies in an ancestor that is not named'),
    'leaf-entry-huge': (poke(LEAF + 2080 + 4, 0xff, LEAF), 'outside of the data'),
    'leaf-padding': (poke(NODE - 1, 1, LEAF), 'padding of a page leaf'),
    'leaf-swapped': (poke(LEAF + 32, 0x09, LEAF), 'do not agree'),
    # units
    'unit-count': (poke(UNITS + 28, 2, UNITS), 'units too many or too few'),
    'unit-off': (poke(UNITS + 33, 0x14, UNITS), 'outside of the data'),
    'unit-off-huge': (poke(UNITS + 37, 0xff, UNITS), 'outside of the data'),
    'unit-off-odd': (poke(UNITS + 32, 1, UNITS), 'outside of the data'),
    'unit-codec': (poke(UNITS + 38, 1, UNITS), 'coded in a way this version does not know'),
    'unit-slots': (poke(UNITS + 39, 1, UNITS), 'unit of an impossible length'),
    'unit-slots-huge': (poke(UNITS + 39, 255, UNITS), 'outside of the data'),
    'unit-length': (poke(UNITS + 41, 8, UNITS), 'outside of the data'),
    'unit-crc': (poke(UNITS + 44, 0, UNITS), 'unit record and its slots do not agree'),
    'slot-page-other': (poke(UNITS + 48, 1, UNITS), 'do not agree'),
    'slot-dead': (lambda i: (i.put(UNITS + 48, '5s', b'\xff' * 5), i.part(UNITS)),
                  'names a page the guest does not have'),
    'slot-page-huge': (poke(UNITS + 52, 0xff, UNITS), 'names a page the guest does not have'),
    'slot-crc': (poke(UNITS + 53, 0, UNITS), 'fails its checksum'),
    'slot-unused': (poke(UNITS + 57, 1, UNITS), 'unused slot of a unit'),
    'page': (lambda i: i.put(DATA + 100, 'B', 0), 'block m offset 0x0: page fails its checksum'),
}


# ---- coded images ----

SLOTS = 4                               # of a unit
UNIT = 16 + 9 * SLOTS                   # bytes of one in the table
NOBODY = b'\xff' * 5                    # the page number of a dead slot


class Whole(Image):
    """An image of which the places are looked up: one unit leaf, one leaf."""

    def __init__(self, data):
        super().__init__(data)
        self.sec, f = {}, self.footer_at()
        for n in range(struct.unpack_from('<I', data, f + 104)[0]):
            kind, _, off, size, _ = struct.unpack_from('<IIQQQ', data, f + SECTION + 32 * n)
            self.sec[kind] = (n, off, size)
        self.data, self.units, self.leaf = (self.sec[k][1] for k in (1, 2, 3))

    def get(self, at, fmt):
        return struct.unpack_from('<' + fmt, self.b, at)[0]

    def seal(self):
        for kind in (2, 3):
            _, off, size = self.sec[kind]
            if size > 0:
                self.part(off, off + size)
        if 21 in self.sec:
            n, off, size = self.sec[21]
            self.section(n, 'crc', crc(self.b[off:off + size]))

    def unit(self, u):
        return self.units + 32 + u * UNIT

    def slot(self, s):
        return self.unit(s // SLOTS) + 16 + 9 * (s % SLOTS)

    def stored_bytes(self, u):
        at, size = self.get(self.unit(u), 'Q') & (1 << 48) - 1, self.get(self.unit(u) + 8, 'I')
        return at, at + size

    def unit_crc(self, u):
        at, end = self.stored_bytes(u)
        self.put(self.unit(u) + 12, 'I', crc(self.b[at:end]))

    def state(self, page, state):
        at, shift = self.leaf + 32 + page // 4, 2 * (page % 4)
        self.b[at] = self.b[at] & ~(3 << shift) | state << shift

    def entry_at(self, page):
        """Of a guest of which all pages before the zero ones have entries."""
        return self.leaf + 2080 + 5 * page

    def entry(self, page, slot):
        self.put(self.entry_at(page), '5s', slot.to_bytes(5, 'little'))

    def counts(self, n, stored, zero):
        self.put(self.leaf + 28, 'I', n)
        self.footer_put(64, 'QQ', stored, zero)


def put(place, arg, more, fmt, value):
    """Put a value at a place, which is found by one of the functions of Whole."""
    return lambda i: i.put(getattr(i, place)(arg) + more, fmt, value)


def kill(i):
    """No lie: page 8 is zero now, and its slot a dead one."""
    entries = i.leaf + 2080
    i.state(8, 1)
    i.b[entries + 40:entries + 55] = i.b[entries + 45:entries + 55] + bytes(5)
    i.counts(10, 10, 2)
    i.put(i.slot(8), '5s', NOBODY)


def kill_raw(i):
    """The same with page 4, which lies in a raw unit: its bytes and their CRC stay."""
    entries = i.leaf + 2080
    i.state(4, 1)
    i.b[entries + 20:entries + 55] = i.b[entries + 25:entries + 55] + bytes(5)
    i.counts(10, 10, 2)
    i.put(i.slot(4), '5s', NOBODY)


def kill_raw_and_flip(i):
    kill_raw(i)
    i.put(i.stored_bytes(1)[0], 'B', 1)


def one_less(i):
    """The last unit has one page less than it decodes to; that page is zero now."""
    i.state(10, 1)
    i.put(i.leaf + 2080 + 50, '5s', bytes(5))
    i.counts(10, 10, 2)
    i.put(i.slot(10), '9s', bytes(9))
    i.put(i.unit(2) + 7, 'B', 1)


def one_more(i):
    """The last unit has one page more than it decodes to; it was zero."""
    i.state(11, 2)
    i.entry(11, 11)
    i.counts(12, 12, 0)
    i.put(i.slot(11), '5s', (11).to_bytes(5, 'little'))
    i.put(i.unit(2) + 7, 'B', 3)


def dead_and_named(i):
    i.put(i.slot(8), '5s', NOBODY)


def unused_and_named(i):
    i.put(i.slot(8), '5s', NOBODY)
    i.entry(8, 11)


def flipped(i):
    at, _ = i.stored_bytes(0)
    i.b[at + 1000] ^= 1


def flipped_and_sealed(i):
    flipped(i)
    i.unit_crc(0)


def all_dead(i):
    for s in (8, 9, 10):
        i.put(i.slot(s), '5s', NOBODY)


def shorter(i):
    i.put(i.unit(2) + 8, 'I', i.get(i.unit(2) + 8, 'I') - 1)
    i.unit_crc(2)


def moved(i):
    i.put(i.unit(1), 'I', i.get(i.unit(1), 'I') - 1)
    i.unit_crc(1)


CODED = {
    # no lie
    'dead': (kill, 0, ''),
    'dead-raw': (kill_raw, 0, ''),
    # lies
    'head-unit-large': (head(36, 'I', 128), 6, 'impossible unit size'),
    'foot-slots-odd': (foot(88, 'Q', 13), 16, 'impossible number of slots'),
    'foot-slots-few': (foot(88, 'Q', 8), 16, 'impossible number of slots'),
    'foot-slots-huge': (foot(88, 'Q', 1 << 40), 16, 'impossible number of slots'),
    'foot-ancestor': (foot(72, 'QQ', 0, 1), 16, 'pages lie in another image, and none is named'),
    'head-ancestors': (head(16, 'Q', 3), 23, 'do not agree on ancestors'),
    'entry-huge': (lambda i: i.entry(8, 12), 37, 'outside of the data'),
    'slot-page-huge': (put('slot', 8, 0, 'B', 13), 38, 'names a page the guest does not have'),
    'slot-page-other': (put('slot', 8, 0, 'B', 7), 39, 'do not agree'),
    'slot-dead-and-named': (dead_and_named, 39, 'do not agree'),
    'slot-unused-and-named': (unused_and_named, 39, 'do not agree'),
    'unit-codec': (put('unit', 0, 6, 'B', 2), 40, 'coded in a way this version does not know'),
    'unit-slots': (put('unit', 0, 7, 'B', 4), 41, 'outside of the data'),
    'raw-length': (put('unit', 1, 8, 'I', 4 * 4096 - 1), 42, 'unit of an impossible length'),
    'zstd-length-0': (put('unit', 0, 8, 'I', 0), 42, 'unit of an impossible length'),
    'zstd-length-whole': (put('unit', 0, 8, 'I', 4 * 4096), 42, 'unit of an impossible length'),
    'unit-off': (put('unit', 0, 0, 'I', 4095), 43, 'outside of the data'),
    'unit-off-huge': (put('unit', 2, 5, 'B', 255), 43, 'outside of the data'),
    'zstd-flipped': (flipped, 44, 'block m offset 0x0: page fails its checksum'),
    'zstd-flipped-and-sealed': (flipped_and_sealed, 44, 'page fails its checksum'),
    'zstd-long': (one_less, 44, 'block m offset 0x8000: page fails its checksum'),
    'zstd-short': (one_more, 44, 'block m offset 0x8000: page fails its checksum'),
    'zstd-crc': (put('unit', 0, 12, 'I', 1), 44, 'block m offset 0x0: page fails its checksum'),
    'raw-page': (lambda i: i.put(i.stored_bytes(1)[0], 'B', 1), 44,
                 'block m offset 0x4000: page fails its checksum'),
    'raw-crc': (put('unit', 1, 12, 'I', 1), 48, 'unit record and its slots do not agree'),
    'raw-dead': (put('slot', 4, 0, '5s', NOBODY), 39, 'do not agree'),
    'all-dead': (all_dead, 39, 'do not agree'),
    'dead-raw-flipped': (kill_raw_and_flip, 48, 'unit fails its checksum'),
    'unit-moved': (moved, 48, 'unit record and its slots do not agree'),
    'data-longer': (shorter, 48, 'data is longer than its units'),
    'slot-unused': (put('slot', 11, 8, 'B', 1), 49, 'unused slot of a unit'),
}

# ---- images with a base ----


def listed(at, fmt, value):
    """Change the list of ancestors: number, UUID, length of the path, path `b`."""
    return lambda i: i.put(i.sec[21][1] + at, fmt, value)


def led_to(name):
    return listed(22, 'c', name.encode())


def without_feature(i):
    i.head_field(16, 'Q', 0)
    i.footer_put(72, 'QQ', i.get(i.footer_at() + 72, 'Q') + i.get(i.footer_at() + 80, 'Q'), 0)


BASED = {
    'bare': (without_feature, 23, 'do not agree on ancestors'),
    'entry-ancestor': (put('entry_at', 0, 4, 'B', 1), 36, 'lies in an ancestor that is not named'),
    'none': (listed(0, 'I', 0), 54, 'list of ancestors is damaged'),
    'many': (listed(0, 'I', 256), 54, 'list of ancestors is damaged'),
    'two': (listed(0, 'I', 2), 54, 'list of ancestors is damaged'),
    'path-0': (listed(20, 'H', 0), 54, 'list of ancestors is damaged'),
    'path-long': (listed(20, 'H', 2), 54, 'list of ancestors is damaged'),
    'path-huge': (listed(20, 'H', 4096), 54, 'list of ancestors is damaged'),
    'path-nul': (led_to('\0'), 54, 'list of ancestors is damaged'),
    'nowhere': (led_to('n'), 55, 'needs the image with UUID'),
    'other-uuid': (listed(10, 'B', 0), 55, 'b is not that'),
    'other-blocks': (led_to('k'), 55, 'k: is of another guest'),
    'other-page-size': (led_to('p'), 55, 'p: is of another guest'),
    'other-state': (led_to('z'), 56, 'z: block m offset 0x0: is not stored here'),
    'other-content': (led_to('c'), 56, 'c: block m offset 0x0: is not what it was'),
    'other-crc': (put('entry_at', 0, 0, 'I', 1), 56, 'b: block m offset 0x0: is not what it was'),
    'bad-base': (led_to('d'), 44, 'd: block m offset 0x0: page fails its checksum'),
    'section-crc': (lambda i: i.section(i.sec[21][0], 'crc', 1), 45, 'section fails its checksum'),
}


def bases():
    """All of them get the UUID of b."""
    with open('b', 'rb') as f:
        b = f.read()
    for name in 'kpzc':
        with open(name, 'r+b') as f:
            i = Whole(f.read())
            i.footer_put(32, '16s', b[-4064:-4048])
            f.seek(0)
            f.write(i.b)
    i = Whole(b)
    i.b[i.data + 100] ^= 1
    with open('d', 'wb') as f:
        f.write(i.b)


# ---- far away ----


def times(a, b):
    """The product of two polynomials modulo that of the CRC, bits reversed."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0x82f63b78 if b & 1 else 0)
    return product


def crc_of_zeros(n):
    c, shift = 0xffffffff, 1 << 23         # x^8: one zero byte
    while n > 0:
        if n & 1:
            c = times(c, shift)
        shift = times(shift, shift)
        n >>= 1
    return c ^ 0xffffffff


def far(i, name):
    hole, end = (1 << 32) + (1 << 20), i.footer_at()
    for n, off, _ in i.sec.values():
        i.section(n, 'off', off + hole)
    i.b[end + SECTION + 32:end + 4092] = i.b[end + SECTION:end + 4092 - 32]
    for field, value in (('type', 99), ('crc', crc_of_zeros(hole)), ('off', i.data),
                         ('len', hole)):
        i.section(0, field, value)
    i.footer_put(16, 'Q', len(i.b) + hole)
    i.footer_put(48, 'Q', 1 << 33)
    i.footer_put(104, 'I', len(i.sec) + 1)
    for u in range(i.get(i.units + 28, 'I')):
        i.put(i.unit(u), 'Q', i.get(i.unit(u), 'Q') + hole)
    for kind in (4, 5):
        _, off, size = i.sec[kind]
        i.put(off + 32, 'Q', i.get(off + 32, 'Q') + hole)
        i.part(off, off + size)
    i.seal()
    with open(name, 'wb') as f:
        f.write(i.b[:i.data])
        f.seek(hole, 1)
        f.write(i.b[i.data:])


def main():
    mode = sys.argv[1]
    with open(sys.argv[2], 'rb') as f:
        data = f.read()
    if mode == 'far':
        far(Whole(data), sys.argv[3])
        return
    if mode == 'based':
        bases()
    kinds = {'plain': KINDS, 'coded': CODED, 'based': BASED}[mode]
    for kind, (change, *rule, words) in kinds.items():
        image = Image(data) if mode == 'plain' else Whole(data)
        change(image)
        if mode != 'plain' and kind != 'section-crc':
            image.seal()
        with open(kind + '.bad', 'wb') as f:
            f.write(image.b)
        print(kind, *rule or [0], words)


main()
