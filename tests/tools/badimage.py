#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Make images that are wrong in one way each: all checksums around the lie are right.

usage: badimage.py plain|raw|coded|based|wide IMAGE
       badimage.py rules
       badimage.py far IMAGE NEW

Writes KIND.bad for each kind of lie, and prints a line with the kind, the number of its rule in
section 15 of format.md, and words of the message it should get. Number 0, and no words: no lie, but
an oddity that readers must take; "good" is in its name.

plain: IMAGE is the example of format.md. raw, coded, based, wide: those of format_test.sh, which tells what is in them; the bases
that based images are led to get the UUID of the true one.

rules: the numbers, each once.

far: NEW is IMAGE, behind a hole of more than 4 GiB, a section of a kind that readers pass over; and
it was made in the year 2242.
"""

import struct
import sys

DATA, UNITS, LEAVES, NODES, ROOT = 1, 2, 3, 4, 5
PREAMBLE, PROLOGUE, MAP, ITERABLES, TAIL = 16, 17, 18, 19, 20
ANCESTORS, LABEL, HOT, DISKS = 21, 22, 23, 24
NAMES = {'data': DATA, 'units': UNITS, 'leaf': LEAVES, 'node': NODES, 'root': ROOT,
         'preamble': PREAMBLE, 'prologue': PROLOGUE, 'map': MAP, 'tail': TAIL,
         'ancestors': ANCESTORS, 'label': LABEL, 'hot': HOT, 'disks': DISKS}
UNKNOWN = 99            # a type that readers pass over
NOBODY = b'\xff' * 5    # the page number of a dead slot

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


class Section:
    def __init__(self, kind, body, extra=0):
        self.kind, self.body, self.extra = kind, bytearray(body), extra
        self.off = None         # in the file
        self.hole = 0           # zero bytes before body
        self.parts = []         # of a table: where each begins, and its length
        at = 0
        while UNITS <= kind <= ROOT and at < len(self.body):
            size, = struct.unpack_from('<I', self.body, at + 24)
            self.parts.append((at, size))
            at += size


class Image:
    """In pieces. Places are named after sections, and are in their first part."""

    def __init__(self, data):
        self.foot = bytearray(data[-4096:])
        self.sections, begin = [], len(data) - 4096
        for n in range(struct.unpack_from('<I', self.foot, 104)[0]):
            kind, _, off, size, extra = struct.unpack_from('<IIQQQ', self.foot, 112 + 32 * n)
            self.sections.append(Section(kind, data[off:off + size], extra))
            self.sections[-1].off = off
            begin = min(begin, off)
        self.head = bytearray(data[:begin])
        self.length = None      # of what is written, if it is to be cut
        self.slots = self.get('head', 36, 'I')

    # Places are names, and (name of a method, its argument).

    def section(self, place):
        return next(s for s in self.sections if s.kind == NAMES[place])

    def find(self, place):
        """The bytes it lies in, and where."""
        if isinstance(place, tuple):
            return getattr(self, place[0])(place[1])
        if place in ('head', 'foot'):
            return getattr(self, place), 0
        return self.section(place).body, 0

    def get(self, place, more, fmt):
        b, at = self.find(place)
        return struct.unpack_from('<' + fmt, b, at + more)[0]

    def put(self, place, more, fmt, *values):
        b, at = self.find(place)
        struct.pack_into('<' + fmt, b, at + more, *values)

    def add(self, place, more, fmt, value):
        self.put(place, more, fmt, self.get(place, more, fmt) + value)

    def unit(self, u):
        return self.section('units').body, 32 + u * (16 + 9 * self.slots)

    def slot(self, s):
        b, at = self.unit(s // self.slots)
        return b, at + 16 + 9 * (s % self.slots)

    def entry(self, n):
        return self.section('leaf').body, 2080 + 5 * n

    def stored(self, u):
        """The stored bytes of a unit."""
        data = self.section('data')
        return data.body, (self.get(('unit', u), 0, 'Q') & (1 << 48) - 1) - data.off

    def state(self, page, state):
        at, shift = 32 + page // 4, 2 * (page % 4)
        self.put('leaf', at, 'B', self.get('leaf', at, 'B') & ~(3 << shift) | state << shift)

    def counts(self, n, stored, zero):
        self.put('leaf', 28, 'I', n)
        self.put('foot', 64, 'QQ', stored, zero)

    def unit_crc(self, u):
        b, at = self.stored(u)
        self.put(('unit', u), 12, 'I', crc(b[at:at + self.get(('unit', u), 8, 'I')]))

    # What is done after a change.

    def lay(self):
        """Sections are more, longer, in another order: where they lie, and all that tells of it."""
        at = len(self.head)
        self.foot[112:4092] = bytes(3980)
        for n, s in enumerate(self.sections):
            if s.off not in (None, at):
                self.moved(s.kind, at - s.off)
            s.off, size = at, s.hole + len(s.body)
            self.put('foot', 112 + 32 * n, 'IIQQQ', s.kind, 0, at, size, s.extra)
            at += size
        self.put('foot', 104, 'I', len(self.sections))
        self.put('foot', 16, 'Q', at + 4096)

    def moved(self, kind, by):
        if kind == DATA and self.section('units').body:
            for u in range(self.get('units', 28, 'I')):
                self.add(('unit', u), 0, 'Q', by)
        for table, of in ('node', LEAVES), ('root', NODES):
            for at, _ in self.section(table).parts if kind == of else ():
                self.add(table, at + 32, 'Q', by)

    def seal_header(self):
        self.put('head', 4092, 'I', crc(self.head[:4092]))

    def seal(self):
        """Make all checksums right, but those of pages and of units."""
        for n, s in enumerate(self.sections):
            for at, size in s.parts:
                struct.pack_into('<I', s.body, at, crc(s.body[at + 4:at + size]))
            if s.kind >= PREAMBLE:
                self.put('foot', 116 + 32 * n, 'I', crc_behind(s.hole, s.body))
        self.seal_header()
        self.put('foot', 100, 'I', self.get('head', 4092, 'I'))
        self.put('foot', 4092, 'I', crc(self.foot[:4092]))

    def write(self, name):
        with open(name, 'wb') as f:
            f.write(self.head)
            for s in self.sections:
                f.seek(s.hole, 1)
                f.write(s.body)
            f.write(self.foot)
            f.truncate(self.length)


# ---- changes ----

def put(place, more, fmt, *values):
    return lambda i: i.put(place, more, fmt, *values)


def head(at, fmt, *values):
    return put('head', at, fmt, *values)


def foot(at, fmt, *values):
    return put('foot', at, fmt, *values)


def entry_of(kind, field, value):
    """A field of a section's entry in the footer."""
    at, fmt = {'type': (0, 'I'), 'crc': (4, 'I'), 'off': (8, 'Q'), 'len': (16, 'Q'),
               'extra': (24, 'Q')}[field]

    def change(i):
        n = [s.kind for s in i.sections].index(kind)
        i.put('foot', 112 + 32 * n + at, fmt, value)
    return change


def then(*changes):
    def change(i):
        for c in changes:
            c(i)
    return change


def late(change):
    """Not to be sealed: it is a checksum that is wrong."""
    def late_change(i):
        change(i)
    late_change.is_late = True
    return late_change


def splice(place, at, end, data):
    """These bytes of a section become others. Of tables, parts behind at are moved."""
    def change(i):
        s = i.section(place)
        by = len(data) - len(s.body[at:end])
        s.body[at:end] = data
        s.parts = [(a + by if a >= at else a, min(n, len(s.body))) for a, n in s.parts if s.body]
        i.lay()
    return change


def with_section(kind, data, extra=0):
    """One more, before the last one."""
    def change(i):
        i.sections.insert(-1, Section(kind, data, extra))
        i.lay()
    return change


def part_length(place, at, size):
    """The first part of a table takes as many bytes, and says so."""
    def change(i):
        s = i.section(place)
        s.parts[0] = s.parts[0][0], size
        i.put(place, 24, 'I', size)
        at(i)
    return change


def cut(length):
    def change(i):
        i.length = length
    return change


def nothing(i):
    pass


def other_header(i):
    """With a checksum of its own that is right."""
    i.put('head', 24, 'Q', 1)
    i.seal_header()


def unknown_and_impossible(i):
    """An unknown feature, and all else in the header and footer that could be refused."""
    i.put('head', 16, 'QQIIII', 1 << 62 | 1 << 33, 0, 0, 0, 0, 0)
    i.put('head', 48, '4044s', b'\xff' * 4044)
    i.put('foot', 56, '4036s', b'\xff' * 4036)


def no_sections(i):
    i.sections.clear()
    i.lay()


def in_another_order(i):
    """The last section comes first, but data are where pages may lie."""
    i.sections.reverse()
    i.lay()
    i.sections.insert(-1, Section(UNKNOWN, bytes(-i.sections[-1].off % i.get('head', 32, 'I'))))
    i.lay()


def most_sections(i):
    for n in range(120 - len(i.sections)):
        i.sections.insert(n, Section(1000 + n, b''))
    i.lay()


def all_zero_page(i):
    i.put('data', 0, '1024s', bytes(1024))
    i.put(('slot', 0), 5, 'I', crc(bytes(1024)))
    i.unit_crc(0)


def gap_before(place, table):
    """Zeros before the first part of a table, and the part is led to."""
    def change(i):
        splice(place, 0, 0, bytes(16))(i)
        i.add(table, 32, 'Q', 16)
    return change


def missing(kind):
    return entry_of(kind, 'type', UNKNOWN), 23, \
        'a table is missing' if kind <= ROOT else 'a section is missing'


def empty(place):
    return splice(place, 0, None, b''), 23, 'a section is missing'


def flipped(place, rule=45, words='section fails its checksum'):
    return late(lambda i: i.put(place, 8, 'B', i.get(place, 8, 'B') ^ 1)), rule, words


def flipped_in_new(kind, rule=45):
    """The same in a section that was not there."""
    def change(i):
        i.sections[-2].body[5] ^= 1

    return late(then(with_section(kind, b'sections'), Image.seal, change)), rule, \
        'section fails its checksum'


A_DISK = struct.pack('<II', 1, 1) + b'\3\0sys\4\0file\5\0qcow2\4\0next'
BAD_MAP, BAD_NODE = 'RAM map is damaged', 'node of another length than its table needs'
OUTSIDE, ELSEWHERE = 'table part outside of its table', 'not the one that belongs here'

PLAIN = {
    # no lie
    'good': (nothing, 0, ''),
    'good-compatible-features': (head(24, 'Q', (1 << 64) - 1), 0, ''),
    'good-identity': (foot(32, '16sQ', b'\xff' * 16, 1 << 33), 0, ''),
    'good-unknown-sections': (then(with_section(25, b'x', 5), with_section(UNKNOWN, b''),
                                   with_section((1 << 32) - 1, b'y' * 5000, (1 << 64) - 1)), 0, ''),
    'good-most-sections': (most_sections, 0, ''),
    'good-other-order': (in_another_order, 0, ''),
    'good-hot': (with_section(HOT, b'\1' + bytes(9), 1), 0, ''),
    'good-disks': (with_section(DISKS, A_DISK, 1), 0, ''),
    'good-empty-sections': (then(*(with_section(k, b'')
                                   for k in (ITERABLES, LABEL, HOT, DISKS))), 0, ''),
    'good-senseless-sections': (then(with_section(LABEL, b'\0'), with_section(HOT, b'odd'),
                                     with_section(DISKS, b'none')), 0, ''),
    'good-stored-zero': (all_zero_page, 0, ''),
    # the file
    'file-short': (cut(8191), 1, 'no footer'),
    'file-header-only': (cut(4096), 1, 'no footer'),
    'file-less': (cut(4095), 1, 'shorter than a header'),
    # header
    'head-magic': (head(15, 'B', 0), 2, 'offset 0: not a qemu-snap image'),
    'head-crc': (late(head(4000, 'B', 1)), 3, 'header fails its checksum'),
    'head-incompatible': (head(16, 'Q', 1 << 40), 4,
                          'features this version does not know: 0x10000000000'),
    'head-incompatible-more': (head(16, 'Q', 3 | 1 << 2), 4,
                               'features this version does not know: 0x4'),
    'head-incompatible-first': (unknown_and_impossible, 4,
                                'features this version does not know: 0x4000000200000000'),
    'head-page-size-0': (head(32, 'I', 0), 5, 'impossible page size'),
    'head-page-size-odd': (head(32, 'I', 1025), 5, 'impossible page size'),
    'head-page-size-small': (head(32, 'I', 512), 5, 'impossible page size'),
    'head-page-size-large': (head(32, 'I', 1 << 17), 5, 'impossible page size'),
    'head-page-size-huge': (head(32, 'I', 1 << 31), 5, 'impossible page size'),
    'head-unit-0': (head(36, 'I', 0), 6, 'impossible unit size'),
    'head-unit-odd': (head(36, 'I', 3), 6, 'impossible unit size'),
    'head-unit-huge': (head(36, 'I', 512), 6, 'impossible unit size'),
    'head-cluster-0': (head(40, 'I', 0), 7, 'impossible cluster size'),
    'head-cluster-odd': (head(40, 'I', 65537), 7, 'impossible cluster size'),
    'head-cluster-small': (head(40, 'I', 1 << 15), 7, 'impossible cluster size'),
    'head-cluster-huge': (head(40, 'I', 1 << 25), 7, 'impossible cluster size'),
    'head-larger': (head(44, 'I', 8192), 8, 'impossible start of the data'),
    'head-reserved-first': (head(48, 'B', 1), 9, 'reserved bytes of the header'),
    'head-reserved-last': (head(4091, 'B', 1), 9, 'reserved bytes of the header'),
    # footer
    'foot-magic': (foot(15, 'B', 0), 10, 'no footer'),
    'foot-crc': (late(foot(4000, 'B', 1)), 11, 'footer fails its checksum'),
    'foot-length': (foot(16, 'Q', 1 << 63), 12, 'not as long as its footer says'),
    'foot-of-another-header': (late(other_header), 13, 'not of one image'),
    'foot-flags': (foot(96, 'I', 4), 14, 'reserved bits of the footer'),
    'foot-flags-last': (foot(96, 'I', 1 << 31), 14, 'reserved bits of the footer'),
    'foot-reserved-word': (foot(108, 'I', 1 << 31), 14, 'reserved bits of the footer'),
    'foot-pages': (foot(56, 'Q', 1 << 40), 15, 'impossible number of pages'),
    'foot-pages-huge': (foot(56, 'Q', 1 << 63), 15, 'impossible number of pages'),
    'foot-stored': (foot(64, 'Q', (1 << 64) - 1), 15, 'impossible number of pages'),
    'foot-zero-huge': (foot(72, 'Q', (1 << 64) - 1), 15, 'impossible number of pages'),
    'foot-ancestor-huge': (foot(80, 'Q', (1 << 64) - 1), 15, 'impossible number of pages'),
    'foot-sum': (foot(64, 'QQ', 1, 2), 15, 'impossible number of pages'),
    'foot-stored-0': (foot(64, 'Q', 0), 16, 'impossible number of slots'),
    'foot-slots': (foot(88, 'Q', 1 << 39), 16, 'impossible number of slots'),
    'foot-ancestor': (foot(72, 'QQ', 0, 1), 16, 'pages lie in another image, and none is named'),
    'foot-sections-121': (foot(104, 'I', 121), 17, 'impossible number of sections'),
    'foot-sections-huge': (foot(104, 'I', (1 << 32) - 1), 17, 'impossible number of sections'),
    'foot-reserved-first': (foot(112 + 9 * 32, 'B', 1), 18, 'reserved bytes of the footer'),
    'foot-reserved-last': (foot(4091, 'B', 1), 18, 'reserved bytes of the footer'),
    'foot-sections-less': (foot(104, 'I', 0), 18, 'reserved bytes of the footer'),
    # sections
    'sec-more': (foot(104, 'I', 10), 19, 'sections do not fill the file'),
    'sec-short-file': (then(head(32, 'I', 16384), head(44, 'I', 16384)), 19,
                       'file is too short for its header'),
    'sec-first': (entry_of(DATA, 'off', 5120), 19, 'sections do not fill the file'),
    'sec-overlap': (entry_of(UNITS, 'off', 4096), 19, 'sections do not fill the file'),
    'sec-len-huge': (entry_of(UNITS, 'len', (1 << 64) - 256), 19, 'sections do not fill the file'),
    'sec-last': (entry_of(TAIL, 'len', 24), 19, 'sections do not fill the file'),
    'sec-twice': (entry_of(LEAVES, 'type', UNITS), 20, 'a section is there twice'),
    'sec-type-0': (entry_of(UNITS, 'type', 0), 21, 'unknown kind of table'),
    'sec-type-6': (with_section(6, b''), 21, 'unknown kind of table'),
    'sec-type-15': (with_section(15, b''), 21, 'unknown kind of table'),
    'sec-table-crc': (entry_of(UNITS, 'crc', 1), 22, 'reserved field of a section'),
    'sec-extra-of-a-table': (entry_of(UNITS, 'extra', 1), 22, 'reserved field of a section'),
    'sec-extra-of-the-map': (entry_of(MAP, 'extra', 1), 22, 'reserved field of a section'),
    'sec-extra-of-a-label': (with_section(LABEL, b'x', 1), 22, 'reserved field of a section'),
    'no-sections': (no_sections, 23, 'a table is missing'),
    'no-data': missing(DATA),
    'no-units': missing(UNITS),
    'no-leaves': missing(LEAVES),
    'no-nodes': missing(NODES),
    'no-root': missing(ROOT),
    'no-preamble': missing(PREAMBLE),
    'no-prologue': missing(PROLOGUE),
    'no-map': missing(MAP),
    'no-tail': missing(TAIL),
    'empty-preamble': empty('preamble'),
    'empty-prologue': empty('prologue'),
    'empty-map': empty('map'),
    'empty-tail': empty('tail'),
    'ancestors-without-feature': (with_section(ANCESTORS, b'x'), 23, 'do not agree on ancestors'),
    'feature-without-ancestors': (head(16, 'Q', 1), 23, 'do not agree on ancestors'),
    'tail-split-0': (entry_of(TAIL, 'extra', 0), 24, 'impossible length of the device state'),
    'tail-split-end': (entry_of(TAIL, 'extra', 25), 24, 'impossible length of the device state'),
    'tail-split-other': (entry_of(TAIL, 'extra', 4), 24, 'does not end where it should'),
    # RAM map
    'map-long': (splice('map', 34, 34, bytes(32768)), 25, 'section is longer than it can be'),
    'map-crc': flipped('map', 25),
    'map-short': (splice('map', 15, 34, b''), 26, BAD_MAP),
    'map-blocks-0': (put('map', 0, 'I', 0), 26, BAD_MAP),
    'map-blocks-1-but-none': (splice('map', 16, 34, bytes(2)), 26, BAD_MAP),
    'map-blocks-2': (put('map', 0, 'I', 2), 26, BAD_MAP),
    'map-blocks-huge': (put('map', 0, 'I', (1 << 32) - 1), 26, BAD_MAP),
    'map-pages': (put('map', 8, 'Q', 3), 26, BAD_MAP),
    'map-name-0': (put('map', 16, 'B', 0), 26, BAD_MAP),
    'map-name-long': (put('map', 16, 'B', 255), 26, BAD_MAP),
    'map-name-nul': (put('map', 17, 'B', 0), 26, BAD_MAP),
    'map-cut': (splice('map', 33, 34, b''), 26, BAD_MAP),
    'map-length-0': (put('map', 18, 'Q', 0), 26, BAD_MAP),
    'map-length-odd': (put('map', 18, 'Q', 2049), 26, BAD_MAP),
    'map-length-huge': (put('map', 18, 'Q', 1 << 63), 26, BAD_MAP),
    'map-left-over': (splice('map', 34, 34, b'\0'), 26, BAD_MAP),
    # what the footer says of them
    'foot-pages-other': (foot(56, 'Q', 3), 27, 'RAM map and footer do not agree'),
    'foot-shared': (foot(96, 'I', 2), 27, 'RAM map and footer do not agree'),
    'map-address': (put('map', 26, 'Q', 0), 27, 'RAM map and footer do not agree'),
    'foot-slots-and-stored': (foot(64, 'QQQQ', 2, 0, 0, 2), 27,
                              'data is not as long as it should be'),
    'data-longer': (splice('data', 1024, 1024, bytes(1024)), 27,
                    'data is not as long as it should be'),
    'data-odd': (splice('data', 1024, 1024, b'\0'), 27, 'data is not as long as it should be'),
    'head-unit-other': (head(36, 'I', 4), 27, 'unit table is not as long as it should be'),
    'units-longer': (splice('units', 66, 66, bytes(16)), 27,
                     'unit table is not as long as it should be'),
    # root
    'root-crc': flipped('root', 28, 'table part fails its checksum'),
    'root-kind': (put('root', 4, 'I', 2), 28, ELSEWHERE),
    'root-index': (put('root', 16, 'Q', 1), 28, ELSEWHERE),
    'root-length': (put('root', 24, 'I', 64), 28, ELSEWHERE),
    'root-tag': (put('root', 8, 'B', 0), 28, 'belongs to another image'),
    'root-count': (put('root', 28, 'I', 2), 28, BAD_NODE),
    'root-padding': (put('root', 47, 'B', 1), 28, 'padding of a node'),
    'root-short': (splice('root', 31, 48, b''), 28, 'impossible length of a table part'),
    'root-none': (splice('root', 0, 48, b''), 28, 'impossible length of a table part'),
    'root-longer': (part_length('root', splice('root', 48, 48, bytes(16)), 64), 28, BAD_NODE),
    'root-huge': (splice('root', 48, 48, bytes(65536)), 28, OUTSIDE),
    # parts
    'part-crc': flipped('leaf', 29, 'table part fails its checksum'),
    'part-tag': (put('units', 8, 'B', 0), 29, 'belongs to another image'),
    'part-kind': (put('leaf', 4, 'I', 2), 29, ELSEWHERE),
    'part-index': (put('node', 16, 'Q', 1), 29, ELSEWHERE),
    'part-length': (put('leaf', 24, 'I', 2080), 29, ELSEWHERE),
    'root-first': (put('root', 32, 'B', 0x62), 29, OUTSIDE),
    'root-first-huge': (put('root', 39, 'B', 0xff), 29, OUTSIDE),
    'root-word-huge': (put('root', 41, 'B', 0xff), 29, OUTSIDE),
    'node-first-huge': (put('node', 39, 'B', 0xff), 29, OUTSIDE),
    'node-word-less': (put('node', 40, 'B', 0x82), 29, 'fails its checksum'),
    'leaf-long': (then(splice('leaf', 2096, 2096, bytes(65536)), put('node', 40, 'H', 4097)), 29,
                  OUTSIDE),
    # nodes and leaves
    'node-count': (put('node', 28, 'I', 2), 30, BAD_NODE),
    'node-longer': (then(part_length('node', splice('node', 48, 48, bytes(16)), 64),
                         put('root', 40, 'H', 4)), 30, BAD_NODE),
    'node-padding': (put('node', 47, 'B', 1), 30, 'padding of a node'),
    'leaf-short': (part_length('leaf', put('node', 40, 'H', 4), 64), 31, 'page leaf is too short'),
    'leaf-beyond': (put('leaf', 32, 'B', 0x16), 32, 'pages the guest does not have'),
    'leaf-beyond-last': (put('leaf', 2079, 'B', 0x40), 32, 'pages the guest does not have'),
    'leaf-count': (put('leaf', 28, 'I', 2), 33, 'entries too many or too few'),
    'leaf-more-stored': (put('leaf', 32, 'B', 0x0a), 33, 'entries too many or too few'),
    'leaf-longer': (then(part_length('leaf', splice('leaf', 2096, 2096, bytes(16)), 2112),
                         put('node', 40, 'H', 132)), 33, 'entries too many or too few'),
    'leaf-padding': (put('leaf', 2095, 'B', 1), 34, 'padding of a page leaf'),
    # units, pages, slots
    'unit-count': (put('units', 28, 'I', 2), 35, 'units too many or too few'),
    'leaf-ancestor': (put('leaf', 32, 'B', 0x07), 36, 'lies in an ancestor that is not named'),
    'entry-next': (put(('entry', 0), 0, 'B', 1), 37, 'outside of the data'),
    'entry-huge': (put(('entry', 0), 4, 'B', 0xff), 37, 'outside of the data'),
    'slot-dead': (put(('slot', 0), 0, '5s', NOBODY), 38, 'names a page the guest does not have'),
    'slot-page-next': (put(('slot', 0), 0, 'B', 2), 38, 'names a page the guest does not have'),
    'slot-page-huge': (put(('slot', 0), 4, 'B', 0xff), 38, 'names a page the guest does not have'),
    'slot-page-other': (put(('slot', 0), 0, 'B', 1), 39, 'do not agree'),
    'leaf-swapped': (put('leaf', 32, 'B', 0x09), 39, 'do not agree'),
    'node-word-zero': (put('node', 40, 'H', 1), 39, 'do not agree'),
    'node-word-absent': (put('node', 40, 'H', 0), 39, 'do not agree'),
    'root-word-zero': (put('root', 40, 'H', 1), 39, 'do not agree'),
    'unit-codec': (put(('unit', 0), 6, 'B', 1), 40, 'coded in a way this version does not know'),
    'unit-codec-unknown': (put(('unit', 0), 6, 'B', 255), 40,
                           'coded in a way this version does not know'),
    'unit-slots-huge': (put(('unit', 0), 7, 'B', 255), 41, 'outside of the data'),
    'unit-slots': (put(('unit', 0), 7, 'B', 1), 42, 'unit of an impossible length'),
    'unit-length': (put(('unit', 0), 8, 'I', 1023), 42, 'unit of an impossible length'),
    'unit-off': (put(('unit', 0), 1, 'B', 0x14), 43, 'outside of the data'),
    'unit-off-less': (put(('unit', 0), 1, 'B', 0x0c), 43, 'outside of the data'),
    'unit-off-huge': (put(('unit', 0), 5, 'B', 0xff), 43, 'outside of the data'),
    'page': (put('data', 100, 'B', 0), 44, 'block m offset 0x0: page fails its checksum'),
    'slot-crc': (put(('slot', 0), 5, 'B', 0), 44, 'fails its checksum'),
    # sections with a checksum of their own
    'preamble-crc': flipped('preamble'),
    'prologue-crc': flipped('prologue'),
    'tail-crc': flipped('tail'),
    'iterables-crc': flipped_in_new(ITERABLES),
    'label-crc': flipped_in_new(LABEL),
    'hot-crc': flipped_in_new(HOT),
    'disks-crc': flipped_in_new(DISKS),
    # what only who reads all of it finds
    'unknown-crc': flipped_in_new(25, 47),
    'unit-crc': (put(('unit', 0), 12, 'B', 0), 48, 'unit record and its slots do not agree'),
    'slot-unused': (put(('slot', 1), 0, 'B', 1), 49, 'unused slot of a unit'),
    'slot-unused-crc': (put(('slot', 1), 8, 'B', 1), 49, 'unused slot of a unit'),
    'leaves-begin-late': (gap_before('leaf', 'node'), 50, 'page leaves do not follow one another'),
    'leaves-end-early': (splice('leaf', 2096, 2096, bytes(16)), 50, 'longer than its leaves'),
    'nodes-begin-late': (gap_before('node', 'root'), 50, 'nodes do not follow one another'),
    'nodes-end-early': (splice('node', 48, 48, bytes(16)), 50, 'longer than its leaves'),
    'foot-zero-0': (foot(72, 'Q', 0), 51, 'do not agree on the number of pages'),
}


# ---- raw images of several units, with pages longer than the header ----

def exchange(one, other, fmt):
    """What lies at two places."""
    def change(i):
        a, b = i.get(one, 0, fmt), i.get(other, 0, fmt)
        i.put(one, 0, fmt, b)
        i.put(other, 0, fmt, a)
    return change


RAW = {
    'good-other-order': (in_another_order, 0, ''),
    'map-name-twice': (put('map', 35, 'c', b'a'), 26, BAD_MAP),
    'map-some-addresses': (put('map', 26, 'Q', 0), 26, BAD_MAP),
    'map-other-addresses': (put('map', 44, 'Q', 0), 26, BAD_MAP),
    'map-sum-huge': (then(put('map', 18, 'Q', 1 << 52), put('map', 36, 'Q', 1 << 52),
                          put('map', 8, 'Q', 1 << 40)), 26, BAD_MAP),
    'slot-twice': (put(('slot', 1), 0, 'B', 0), 39, 'do not agree'),
    'slots-exchanged': (exchange(('slot', 0), ('slot', 1), '5s'), 39, 'do not agree'),
    'entries-exchanged': (exchange(('entry', 0), ('entry', 1), '5s'), 39, 'do not agree'),
    'unit-few': (put(('unit', 0), 7, 'BI', 0, 8192), 41, 'unit record and its slots do not agree'),
    'unit-off-odd': (lambda i: i.add(('unit', 0), 0, 'I', 1), 43,
                     'unit that does not begin with a page'),
    'gap-first': (head(4096, 'B', 1), 46, 'offset 4096: padding is not zero'),
    'gap-last': (head(8191, 'B', 1), 46, 'offset 8191: padding is not zero'),
    'units-exchanged': (exchange(('unit', 0), ('unit', 1), 'I'), 48,
                        'unit record and its slots do not agree'),
    'foot-zero-2': (foot(72, 'Q', 2), 51, 'do not agree on the number of pages'),
}


# ---- coded images ----

def kill(page, zero):
    """No lie: page is zero now, and its slot a dead one. If it lies in a raw unit, that stays."""
    def change(i):
        b, at = i.find(('entry', page))
        b[at:2135] = b[at + 5:2135] + bytes(5)
        i.state(page, 1)
        i.counts(10, 10, zero)
        i.put(('slot', page), 0, '5s', NOBODY)
    return change


def one_less(i):
    """The last unit has one page less than it decodes to; that page is zero now."""
    i.state(10, 1)
    i.put(('entry', 10), 0, '5s', bytes(5))
    i.counts(10, 10, 2)
    i.put(('slot', 10), 0, '9s', bytes(9))
    i.put(('unit', 2), 7, 'B', 1)


def one_more(i):
    """The last unit has one page more than it decodes to; it was zero."""
    i.state(11, 2)
    i.put(('entry', 11), 0, 'B', 11)
    i.counts(12, 12, 0)
    i.put(('slot', 11), 0, 'B', 11)
    i.put(('unit', 2), 7, 'B', 3)


def dead(*slots):
    return then(*(put(('slot', s), 0, '5s', NOBODY) for s in slots))


def flip(i):
    i.put(('stored', 0), 1000, 'B', i.get(('stored', 0), 1000, 'B') ^ 1)


def shorter(i):
    """There is a byte behind the last unit."""
    i.add(('unit', 2), 8, 'I', -1)
    i.unit_crc(2)


def moved(i):
    i.add(('unit', 1), 0, 'I', -1)
    i.unit_crc(1)


def frame(byte, pages):
    """A zstd frame of so many pages of one byte: of RLE blocks, one for each."""
    blocks = b''.join(struct.pack('<I', 4096 << 3 | 2 | (n == pages - 1))[:3] + bytes([byte])
                      for n in range(pages))
    return struct.pack('<IBI', 0xfd2fb528, 0xa0, 4096 * pages) + blocks


def frames(*pieces):
    """The last unit, of three pages, is that; the pages have the bytes 1, 2 and 3, or all 1."""
    def change(i):
        b, at = i.stored(2)
        data = b''.join(pieces)
        splice('data', at, len(b), data)(i)
        for k in range(3):
            page = bytes([1 if len(pieces) < 3 else k + 1]) * 4096
            i.put(('slot', 8 + k), 5, 'I', crc(page))
        i.put(('unit', 2), 8, 'I', len(data))
        i.unit_crc(2)
    return change


SKIPPED = struct.pack('<II', 0x184d2a50, 3) + b'abc'    # a frame that a decoder passes over
IN_LAST = 'block m offset 0x8000: page fails its checksum'

CODED = {
    # no lie
    'good-dead': (kill(8, 2), 0, ''),
    'good-dead-raw': (kill(4, 2), 0, ''),
    'good-frame': (frames(frame(1, 3)), 0, ''),
    # lies
    'head-unit-large': (head(36, 'I', 128), 6, 'impossible unit size'),
    'foot-slots-odd': (foot(88, 'Q', 13), 16, 'impossible number of slots'),
    'foot-slots-few': (foot(88, 'Q', 8), 16, 'impossible number of slots'),
    'foot-slots-huge': (foot(88, 'Q', 1 << 40), 16, 'impossible number of slots'),
    'foot-ancestor': (foot(72, 'QQ', 0, 1), 16, 'pages lie in another image, and none is named'),
    'head-ancestors': (head(16, 'Q', 3), 23, 'do not agree on ancestors'),
    'entry-huge': (put(('entry', 8), 0, 'B', 12), 37, 'outside of the data'),
    'slot-page-huge': (put(('slot', 8), 0, 'B', 13), 38, 'names a page the guest does not have'),
    'slot-page-other': (put(('slot', 8), 0, 'B', 7), 39, 'do not agree'),
    'slot-dead-and-named': (dead(8), 39, 'footer and unit table do not agree on the number'),
    'slot-unused-and-named': (then(dead(8), put(('entry', 8), 0, 'B', 11)), 39, 'do not agree'),
    'raw-dead': (dead(4), 39, 'do not agree'),
    'all-dead': (dead(8, 9, 10), 39, 'do not agree'),
    'unit-codec': (put(('unit', 0), 6, 'B', 2), 40, 'coded in a way this version does not know'),
    'unit-slots': (put(('unit', 0), 7, 'B', 4), 41, 'outside of the data'),
    'raw-length': (put(('unit', 1), 8, 'I', 4 * 4096 - 1), 42, 'unit of an impossible length'),
    'zstd-length-0': (put(('unit', 0), 8, 'I', 0), 42, 'unit of an impossible length'),
    'zstd-length-whole': (put(('unit', 0), 8, 'I', 4 * 4096), 42, 'unit of an impossible length'),
    'unit-off': (put(('unit', 0), 0, 'I', 4095), 43, 'outside of the data'),
    'unit-off-huge': (put(('unit', 2), 5, 'B', 255), 43, 'outside of the data'),
    'zstd-flipped': (flip, 44, 'block m offset 0x0: page fails its checksum'),
    'zstd-flipped-and-sealed': (then(flip, lambda i: i.unit_crc(0)), 44,
                                'page fails its checksum'),
    'zstd-long': (one_less, 44, IN_LAST),
    'zstd-short': (one_more, 44, IN_LAST),
    'zstd-crc': (put(('unit', 0), 12, 'I', 1), 44, 'block m offset 0x0: page fails its checksum'),
    'zstd-two-frames': (frames(frame(1, 1), frame(1, 2)), 44, IN_LAST),
    'zstd-three-frames': (frames(frame(1, 1), frame(2, 1), frame(3, 1)), 44, IN_LAST),
    'zstd-skipped-before': (frames(SKIPPED + frame(1, 3)), 44, IN_LAST),
    'zstd-skipped-behind': (frames(frame(1, 3) + SKIPPED), 44, IN_LAST),
    'zstd-behind': (frames(frame(1, 3) + b'\0'), 44, IN_LAST),
    'zstd-cut': (frames(frame(1, 3)[:-1]), 44, IN_LAST),
    'raw-page': (put(('stored', 1), 0, 'B', 1), 44,
                 'block m offset 0x4000: page fails its checksum'),
    'raw-crc': (put(('unit', 1), 12, 'I', 1), 48, 'unit record and its slots do not agree'),
    'dead-raw-flipped': (then(kill(4, 2), put(('stored', 1), 0, 'B', 1)), 48,
                         'unit fails its checksum'),
    'unit-moved': (moved, 48, 'unit record and its slots do not agree'),
    'data-longer': (shorter, 48, 'data is longer than its units'),
    'slot-unused': (put(('slot', 11), 8, 'B', 1), 49, 'unused slot of a unit'),
}


# ---- images with a base ----

def listed(at, fmt, value):
    """Change the list of ancestors: number, UUID, length of the path, path `b`."""
    return put('ancestors', at, fmt, value)


def led_to(name):
    return listed(22, 'c', name.encode())


def without_feature(i):
    i.put('head', 16, 'Q', 0)
    i.put('foot', 72, 'QQ', i.get('foot', 72, 'Q') + i.get('foot', 80, 'Q'), 0)


def twice(i):
    i.put('ancestors', 0, 'I', 2)
    splice('ancestors', 23, 23, i.section('ancestors').body[4:])(i)


BAD_LIST = 'list of ancestors is damaged'

BASED = {
    'good-other-order': (in_another_order, 0, ''),
    'bare': (without_feature, 23, 'do not agree on ancestors'),
    'entry-ancestor': (put(('entry', 0), 4, 'B', 1), 36, 'lies in an ancestor that is not named'),
    'section-crc': flipped('ancestors'),
    'none': (listed(0, 'I', 0), 52, BAD_LIST),
    'many': (listed(0, 'I', 256), 52, BAD_LIST),
    'two': (listed(0, 'I', 2), 52, BAD_LIST),
    'twice': (twice, 52, BAD_LIST),
    'empty': (splice('ancestors', 0, 23, b''), 52, BAD_LIST),
    'left-over': (splice('ancestors', 23, 23, b'\0'), 52, BAD_LIST),
    'path-0': (listed(20, 'H', 0), 52, BAD_LIST),
    'list-huge': (splice('ancestors', 23, 23, bytes(1050000)), 52,
                  'section is longer than it can be'),
    'path-long': (listed(20, 'H', 2), 52, BAD_LIST),
    'path-huge': (then(splice('ancestors', 22, 23, b'b' * 4096), listed(20, 'H', 4096)), 52,
                  BAD_LIST),
    'path-nul': (led_to('\0'), 52, BAD_LIST),
    'nowhere': (led_to('n'), 53, 'needs the image with UUID'),
    'other-uuid': (listed(10, 'B', 0), 53, 'b is not that'),
    'other-blocks': (led_to('k'), 54, 'k: is of another guest'),
    'other-page-size': (led_to('p'), 54, 'p: is of another guest'),
    'other-state': (led_to('z'), 55, 'z: block m offset 0x0: is not stored here'),
    'other-content': (led_to('c'), 55, 'c: block m offset 0x0: is not what it was'),
    'other-crc': (put(('entry', 0), 0, 'I', 1), 55, 'b: block m offset 0x0: is not what it was'),
    'bad-base': (led_to('d'), 44, 'd: block m offset 0x0: page fails its checksum'),
}


def bases():
    """All of them get the UUID of b."""
    with open('b', 'rb') as f:
        b = f.read()
    for name in 'kpzc':
        with open(name, 'rb') as f:
            i = Image(f.read())
        i.put('foot', 32, '16s', b[-4064:-4048])
        i.seal()
        i.write(name)
    i = Image(b)
    i.section('data').body[100] ^= 1
    i.write('d')


# ---- images with two nodes, each with one leaf that is there ----

def leaves_exchanged(i):
    s = i.section('leaf')
    (one, size), (other, _) = s.parts
    s.body[:] = s.body[other:] + s.body[:other]
    i.add('node', 32, 'Q', size)
    i.add('node', i.section('node').parts[1][0] + 32, 'Q', -size)


def leaves_nested(i):
    """The second leaf lies where the first has its entries."""
    s, second = i.section('leaf'), i.section('node').parts[1][0]
    inner = s.body[s.parts[0][1]:]
    count = -(-len(inner) // 5)
    s.body[2080:] = inner.ljust(-(-(2080 + 5 * count) // 16) * 16 - 2080, b'\0')
    for page in range(count):
        i.state(page, 2)
    i.put('leaf', 24, 'II', len(s.body), count)
    s.parts = [(2080, len(inner)), (0, len(s.body))]
    i.put('node', 40, 'H', len(s.body) // 16)
    i.lay()
    i.put('node', second + 32, 'Q', i.get('node', 32, 'Q') + 2080)


WIDE = {
    'leaves-exchanged': (leaves_exchanged, 50, 'page leaves do not follow one another'),
    'leaves-nested': (leaves_nested, 37, 'page leaves do not follow one another'),
}

MODES = {'plain': PLAIN, 'raw': RAW, 'coded': CODED, 'based': BASED, 'wide': WIDE}


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


def crc_behind(hole, body):
    """Of so many zero bytes, and these; not of both."""
    return crc_of_zeros(hole) if hole > 0 else crc(body)


def far(i, name):
    hole = Section(UNKNOWN, b'')
    hole.hole = (1 << 32) + (1 << 20)
    i.sections.insert(0, hole)
    i.lay()
    i.put('foot', 48, 'Q', 1 << 33)
    i.seal()
    i.write(name)


def main():
    mode = sys.argv[1]
    if mode == 'rules':
        print(*sorted({rule for kinds in MODES.values() for _, rule, _ in kinds.values()} - {0}),
              sep='\n')
        return
    with open(sys.argv[2], 'rb') as f:
        data = f.read()
    if mode == 'far':
        far(Image(data), sys.argv[3])
        return
    if mode == 'based':
        bases()
    for kind, (change, rule, words) in MODES[mode].items():
        image = Image(data)
        if not hasattr(change, 'is_late'):
            change(image)
        image.seal()
        if hasattr(change, 'is_late'):
            change(image)
        image.write(kind + '.bad')
        print(kind, rule, words)


if __name__ == '__main__':
    main()
