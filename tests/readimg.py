#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
#
# readimg.py - a second reader of the qemu-snap image
#
# Written from format.md alone, without a look at the program, so that the
# two can be held against each other. It is meant to be read beside that page:
# one function a table, and the number of each refusal (section 15) beside the
# check that makes it. It trusts nothing in the image, and is in no hurry.
#
#   readimg.py check IMAGE         check all that section 15 asks for
#   readimg.py list IMAGE          one line for each page that is not absent
#   readimg.py block IMAGE BLOCK   the memory of a block to standard output
#   readimg.py rest IMAGE          preamble, prologue, iterables and tail
#   readimg.py stream IMAGE        a migration stream (section 10)
#   readimg.py facts IMAGE         label, machine, devices, disks, pages by block: JSON
#   readimg.py hot IMAGE           the hot list in the image: page numbers
#
# Ancestors are opened when a page in them is wanted, by check always. Coded
# images need libzstd.so.1; where it is missing they are refused as R4 says.
#
# Exit status: 0 good; 1 usage, no such block, an ancestor that is not to be
# found (R53), or an error of the system; 2 the image is refused, with one line
# that begins with the refusal's number ("check": on standard output, otherwise:
# on standard error). What is wrong in an ancestor has its name before it.
#
import ctypes
import codecs
import ctypes.util
import json
import os
import stat
import struct
import sys
import time
import uuid
import zlib
from array import array

HEADER_MAGIC = b"qemu-snap image\n"
FOOTER_MAGIC = b"qemu-snap footer"
MAX_PAGES = 2**40 - 1
LEAF_PAGES = 8192
NODE_LEAVES = 16384
CHUNK = 1 << 20
CODED_MAX = 262144              # bytes of pages in a unit of a coded image
DEAD = 2**40 - 1                # page number of a dead slot
NOT_IN_USE = 2**40              # ours, for a slot that is not in use
UNIT_CACHE = 64                 # decoded units kept, at most CODED_MAX each

DATA, UNITS, LEAVES, NODES, ROOT = 1, 2, 3, 4, 5
PREAMBLE, PROLOGUE, RAM_MAP, ITERABLES, TAIL = 16, 17, 18, 19, 20
ANCESTORS, LABEL, HOT, DISKS = 21, 22, 23, 24
LABEL_MAX = 4096
HOT_MAX = 4194304               # pages
DISKS_MAX = 256
DISK_STRINGS = ("name", 255), ("file", 4095), ("format", 31), ("next", 4095)

KIND_LEAF, KIND_NODE, KIND_ROOT, KIND_UNITS = 1, 2, 3, 4
KIND_NAME = {1: "leaf", 2: "node", 3: "root", 4: "unit leaf"}
ABSENT, ZERO, STORED, ANCESTOR = 0, 1, 2, 3

FLAG_ENDED, FLAG_IGNORE_SHARED = 1, 2
FEATURE_ANCESTORS, FEATURE_ZSTD = 1, 2
RAW, ZSTD = 0, 1                # codecs
ZSTD_MAGIC = 0xFD2FB528         # how a frame begins


class Refused(Exception):
    def __init__(self, number, text):
        super().__init__("R%d: %s" % (number, text))
        self.number = number
        self.text = text


def refuse_if(wrong, number, text):
    if wrong:
        raise Refused(number, text)


def u16(b, at):
    return int.from_bytes(b[at:at + 2], "little")


def u32(b, at):
    return int.from_bytes(b[at:at + 4], "little")


def u40(b, at):
    return int.from_bytes(b[at:at + 5], "little")


def u48(b, at):
    return int.from_bytes(b[at:at + 6], "little")


def u64(b, at):
    return int.from_bytes(b[at:at + 8], "little")


def ceil(a, b):
    return -(-a // b)


def round16(n):
    return ceil(n, 16) * 16


def all_zero(b):
    return b.count(0) == len(b)


def power_of_two(n, low, high):
    return low <= n <= high and n & (n - 1) == 0


# --- CRC-32C (section 12) -----------------------------------------------------

def crc_tables():
    """For one byte; for two bytes with 0, 2, 4 and 6 bytes after them"""
    byte = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        byte.append(n)
    two = []
    for n in range(65536):
        c = n >> 8 ^ byte[n & 255]
        two.append(c >> 8 ^ byte[c & 255])
    tables = [two]
    for _ in range(3):
        tables.append([c >> 16 ^ two[c & 65535] for c in tables[-1]])
    return byte, *tables


CRC_BYTE, CRC_2, CRC_4, CRC_6, CRC_8 = crc_tables()


def crc_register(c, data):
    """Push data through the register, 8 bytes at a time"""
    t2, t4, t6, t8 = CRC_2, CRC_4, CRC_6, CRC_8
    words = len(data) // 8
    for q in struct.unpack_from("<%dQ" % words, data):
        q ^= c
        c = (t8[q & 65535] ^ t6[q >> 16 & 65535] ^ t4[q >> 32 & 65535] ^
             t2[q >> 48])
    for b in data[8 * words:]:
        c = c >> 8 ^ CRC_BYTE[(c ^ b) & 255]
    return c


def crc32c(data, before=0):
    return crc_register(before ^ 0xFFFFFFFF, data) ^ 0xFFFFFFFF


class CrcJoin:
    """CRC of A and B together from their CRCs, for a B of a fixed length"""

    def __init__(self, length):
        zeros = bytes(length)
        self.columns = [crc_register(1 << bit, zeros) for bit in range(32)]

    def join(self, a, b):
        for column in self.columns:
            if a & 1:
                b ^= column
            a >>= 1
        return b


# --- zstd (section 9) -----------------------------------------------------------

def zstd_library():
    for name in ("libzstd.so.1", ctypes.util.find_library("zstd")):
        try:
            z = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if z is not None:
            z.ZSTD_decompress.restype = ctypes.c_size_t
            z.ZSTD_decompress.argtypes = (ctypes.c_void_p, ctypes.c_size_t,
                                          ctypes.c_char_p, ctypes.c_size_t)
            z.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
            z.ZSTD_findFrameCompressedSize.argtypes = (ctypes.c_char_p,
                                                       ctypes.c_size_t)
            return z
    raise Refused(4, "not understood: coded with zstd (feature bit 1), and "
                  "libzstd.so.1 is not here")


def zstd_decode(z, stored, length):
    """What stored decodes to, if it is one frame of just this length; else None"""
    out = ctypes.create_string_buffer(length)
    # The library would take several frames, and skip some. An error is a number close to 2^64,
    # so never a length.
    if u32(stored, 0) != ZSTD_MAGIC or \
            z.ZSTD_findFrameCompressedSize(stored, len(stored)) != len(stored):
        return None
    if z.ZSTD_decompress(out, length, stored, len(stored)) != length:
        return None
    return out.raw


# --- the file, header and footer (sections 3 and 4) ---------------------------

class Image:
    """An image that was opened: R1 to R28 and R52 are checked"""

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("%s: not an ordinary file" % path)
        self.length = status.st_size
        refuse_if(self.length < 8192, 1, "the file is shorter than 8192 bytes")
        self.read_header()
        self.read_footer()
        self.read_section_entries()
        self.check_tail_split()
        self.read_ram_map()
        self.check_footer_against_ram_map()
        self.read_root()
        self.read_ancestors()
        self.unit_leaves = {}
        self.decoded = {}
        self.leaf_in_hand = None

    def read(self, offset, length):
        pieces = []
        while length > 0:
            piece = os.pread(self.fd, min(length, 1 << 26), offset)
            if not piece:
                raise OSError("the file became shorter while it was read")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    def read_header(self):
        h = self.read(0, 4096)
        refuse_if(h[0:16] != HEADER_MAGIC, 2, "header: not a qemu-snap image")
        self.header_crc = u32(h, 4092)
        refuse_if(crc32c(h[:4092]) != self.header_crc, 3, "header: wrong CRC")
        bits = u64(h, 16)
        self.has_ancestors = bool(bits & FEATURE_ANCESTORS)
        self.coded = bool(bits & FEATURE_ZSTD)
        bits &= ~(FEATURE_ANCESTORS | FEATURE_ZSTD)
        names = ", ".join(str(n) for n in range(64) if bits >> n & 1)
        refuse_if(bits != 0, 4,
                  "not understood: incompatible feature bits " + names)
        self.zstd = zstd_library() if self.coded else None
        self.page_size = u32(h, 32)
        self.unit_size = u32(h, 36)
        self.data_start = u32(h, 44)
        refuse_if(not power_of_two(self.page_size, 1024, 65536), 5,
                  "header: page size")
        refuse_if(not power_of_two(self.unit_size, 1, 256), 6,
                  "header: unit size")
        refuse_if(self.coded and self.unit_size * self.page_size > CODED_MAX,
                  6, "header: unit size, for a coded image")
        refuse_if(not power_of_two(u32(h, 40), 65536, 16777216), 7,
                  "header: cluster size")
        refuse_if(self.data_start != max(4096, self.page_size), 8,
                  "header: data start")
        refuse_if(not all_zero(h[48:4092]), 9,
                  "header: reserved bytes not zero")

    def read_footer(self):
        f = self.read(self.length - 4096, 4096)
        refuse_if(f[0:16] != FOOTER_MAGIC, 10,
                  "no footer: an interrupted save or a cut copy")
        refuse_if(crc32c(f[:4092]) != u32(f, 4092), 11, "footer: wrong CRC")
        refuse_if(u64(f, 16) != self.length, 12,
                  "footer: not the length of the file")
        refuse_if(u32(f, 100) != self.header_crc, 13,
                  "footer: belongs to another header")
        self.tag = u64(f, 24)
        self.uuid = f[32:48]
        self.time = u64(f, 48)
        self.pages = u64(f, 56)
        self.stored = u64(f, 64)
        self.zero = u64(f, 72)
        self.ancestor = u64(f, 80)
        self.slots = u64(f, 88)
        self.flags = u32(f, 96)
        sections = u32(f, 104)
        refuse_if(self.flags & ~3 or u32(f, 108) != 0, 14,
                  "footer: unknown flags, or reserved bytes not zero")
        refuse_if(self.pages > MAX_PAGES or
                  self.pages < self.stored + self.zero + self.ancestor, 15,
                  "footer: pages of the guest")
        if self.coded:
            refuse_if(self.slots < self.stored or self.slots > MAX_PAGES or
                      self.slots % self.unit_size != 0, 16,
                      "footer: slots of a coded image")
        else:
            refuse_if(self.slots != self.stored, 16,
                      "footer: slots not as many as pages stored")
        refuse_if(self.ancestor != 0 and not self.has_ancestors, 16,
                  "footer: pages in state ancestor, without the feature")
        refuse_if(sections > 120, 17, "footer: more than 120 sections")
        end = 112 + 32 * sections
        refuse_if(not all_zero(f[end:4092]), 18,
                  "footer: bytes behind the section entries not zero")
        self.entries = [f[at:at + 32] for at in range(112, end, 32)]

    # --- sections (section 5) -------------------------------------------------

    def read_section_entries(self):
        """self.sections: type -> Section, in the order of the file"""
        entries = [Section(e) for e in self.entries]
        footer = self.length - 4096
        at = self.data_start
        refuse_if(footer < at, 19, "file too short for data start and footer")
        for s in entries:
            refuse_if(s.offset != at, 19,
                      "section %d not where the one before it ends" % s.type)
            at += s.length
        refuse_if(at != footer, 19,
                  "the last section does not end at the footer")
        self.sections = {}
        for s in entries:
            refuse_if(s.type in self.sections, 20, "section %d twice" % s.type)
            self.sections[s.type] = s
        for s in entries:
            refuse_if(s.type == 0 or 6 <= s.type <= 15, 21,
                      "not understood: section type %d" % s.type)
        for s in entries:
            refuse_if(s.type <= 22 and s.type != TAIL and s.extra != 0, 22,
                      "section %d: extra not 0" % s.type)
            refuse_if(s.type <= 5 and s.crc != 0, 22,
                      "section %d: CRC not 0" % s.type)
        for t in (DATA, UNITS, LEAVES, NODES, ROOT,
                  PREAMBLE, PROLOGUE, RAM_MAP, TAIL):
            refuse_if(t not in self.sections, 23, "section %d missing" % t)
        for t in (PREAMBLE, PROLOGUE, RAM_MAP, TAIL):
            refuse_if(self.sections[t].length == 0, 23, "section %d empty" % t)
        refuse_if((ANCESTORS in self.sections) != self.has_ancestors, 23,
                  "the feature \"ancestors\" and section 21 do not agree")

    def check_tail_split(self):
        tail = self.sections[TAIL]
        refuse_if(tail.extra == 0 or tail.extra >= tail.length, 24,
                  "tail: extra")
        refuse_if(self.read(tail.offset + tail.extra, 1) != b"\0", 24,
                  "tail: no end-of-file byte where extra says")

    def section_crc_ok(self, s):
        crc = 0
        for at in range(0, s.length, CHUNK):
            crc = crc32c(self.read(s.offset + at, min(CHUNK, s.length - at)),
                         crc)
        return crc == s.crc

    def section_bytes(self, type):
        """A whole section of type 16 or more, checked; none: no bytes"""
        s = self.sections.get(type)
        if s is None:
            return b""
        b = self.read(s.offset, s.length)
        refuse_if(crc32c(b) != s.crc, 45, "section %d: wrong CRC" % type)
        return b

    # --- RAM map (section 6) --------------------------------------------------

    def read_ram_map(self):
        s = self.sections[RAM_MAP]
        refuse_if(s.length > 32768, 25, "RAM map: longer than 32768 bytes")
        b = self.read(s.offset, s.length)
        refuse_if(crc32c(b) != s.crc, 25, "RAM map: wrong CRC")
        refuse_if(len(b) < 16, 26, "RAM map: shorter than 16 bytes")
        count = u32(b, 0)
        self.ram_sid = u32(b, 4)
        refuse_if(count == 0, 26, "RAM map: no block")
        refuse_if(count > len(b) // 18, 26, "RAM map: too many blocks")
        self.blocks = []
        names = set()
        told = 0
        first = 0
        at = 16
        for _ in range(count):
            refuse_if(at + 1 > len(b), 26, "RAM map: a block outside")
            n = b[at]
            refuse_if(n == 0, 26, "RAM map: an empty name")
            refuse_if(at + n + 17 > len(b), 26, "RAM map: a block outside")
            name = b[at + 1:at + 1 + n]
            length = u64(b, at + n + 1)
            address = u64(b, at + n + 9)
            at += n + 17
            refuse_if(0 in name, 26, "RAM map: a zero byte in a name")
            refuse_if(name in names, 26, "RAM map: a name twice")
            refuse_if(length == 0 or length % self.page_size != 0, 26,
                      "RAM map: length of a block")
            names.add(name)
            told += address != 2**64 - 1
            pages = length // self.page_size
            self.blocks.append(Block(name, first, pages))
            first += pages
        refuse_if(at != len(b), 26, "RAM map: bytes left over")
        refuse_if(first > MAX_PAGES, 26, "RAM map: too many pages")
        refuse_if(u64(b, 8) != first, 26, "RAM map: sum of pages")
        refuse_if(told not in (0, count), 26,
                  "RAM map: addresses for some blocks only")
        self.ram_pages = first
        self.has_addresses = told != 0

    def check_footer_against_ram_map(self):
        refuse_if(self.pages != self.ram_pages, 27,
                  "footer: pages of the guest not those of the RAM map")
        refuse_if(bool(self.flags & FLAG_IGNORE_SHARED) != self.has_addresses,
                  27, "flag \"ignore shared\" and addresses do not agree")
        refuse_if(not self.coded and
                  self.sections[DATA].length != self.slots * self.page_size,
                  27, "length of the data")
        self.units = ceil(self.slots, self.unit_size)
        self.unit_bytes = 16 + 9 * self.unit_size               # z
        self.leaf_units = 65504 // self.unit_bytes              # M
        self.full_leaf = 32 + self.leaf_units * self.unit_bytes  # F
        self.unit_leaf_count = ceil(self.units, self.leaf_units)  # V
        refuse_if(self.sections[UNITS].length != 32 * self.unit_leaf_count +
                  self.unit_bytes * self.units, 27,
                  "length of the unit table")

    def where(self, page):
        """Words for a page number"""
        for b in self.blocks:
            if b.first <= page < b.first + b.pages:
                return "block %s, offset 0x%x" % (
                    ascii(b.name)[1:], (page - b.first) * self.page_size)
        return "page %d" % page

    # --- parts of tables (section 7) ------------------------------------------

    def read_part(self, section, kind, index, offset, length):
        """A part of a table, checked as R29 says; returns its bytes, count"""
        what = "%s %d: " % (KIND_NAME[kind], index)
        s = self.sections[section]
        refuse_if(length < 32 or length > 65536, 29, what + "length")
        refuse_if(offset < s.offset or offset + length > s.offset + s.length,
                  29, what + "not inside its section")
        b = self.read(offset, length)
        refuse_if(crc32c(b[4:]) != u32(b, 0), 29, what + "wrong CRC")
        refuse_if(u32(b, 4) != kind, 29, what + "of another kind")
        refuse_if(u64(b, 8) != self.tag, 29, what + "of another image")
        refuse_if(u64(b, 16) != index, 29, what + "of another index")
        refuse_if(u32(b, 24) != length, 29, what + "of another length")
        return b, u32(b, 28)

    def read_inner(self, section, kind, index, offset, length, children):
        """Root or node (section 8): where the first child is, and the words"""
        what = "%s %d: " % (KIND_NAME[kind], index)
        b, count = self.read_part(section, kind, index, offset, length)
        refuse_if(count != children, 30, what + "count")
        end = 40 + 2 * count
        refuse_if(length != round16(end), 30, what + "length and count")
        refuse_if(not all_zero(b[end:]), 30, what + "padding not zero")
        return u64(b, 32), struct.unpack_from("<%dH" % count, b, 40)

    def read_root(self):
        self.leaf_count = ceil(self.pages, LEAF_PAGES)
        self.node_count = ceil(self.leaf_count, NODE_LEAVES)
        s = self.sections[ROOT]
        try:
            self.root = self.read_inner(ROOT, KIND_ROOT, 0, s.offset, s.length,
                                        self.node_count)
        except Refused as e:
            raise Refused(28, e.text)

    # --- ancestors (section 11) -----------------------------------------------

    def read_ancestors(self):
        """self.ancestors: what is said of each; none is opened yet"""
        self.ancestors = []
        b = self.section_bytes(ANCESTORS)
        if not self.has_ancestors:
            return
        refuse_if(len(b) < 4, 52, "ancestors: no number")
        count = u32(b, 0)
        refuse_if(not 1 <= count <= 255, 52, "ancestors: %d of them" % count)
        at = 4
        for k in range(count):
            what = "ancestor %d: " % k
            refuse_if(at + 18 > len(b), 52, what + "does not end inside")
            uuid, n = b[at:at + 16], u16(b, at + 16)
            refuse_if(not 1 <= n <= 4095, 52, what + "length of its path")
            refuse_if(at + 18 + n > len(b), 52, what + "does not end inside")
            path = b[at + 18:at + 18 + n]
            refuse_if(0 in path, 52, what + "a zero byte in its path")
            refuse_if(uuid in [a.uuid for a in self.ancestors], 52, what + "its UUID twice")
            self.ancestors.append(Ancestor(uuid, path))
            at += 18 + n
        refuse_if(at != len(b), 52, "ancestors: bytes left over")

    def find_ancestor(self, a):
        """Where it was, or beside this image"""
        directory = os.path.dirname(os.path.realpath(os.fsencode(self.path)))
        for path in (os.path.join(directory, a.path),
                     os.path.join(directory, os.path.basename(a.path))):
            if uuid_of(path) == a.uuid:
                return path
        raise OSError("R53: an ancestor is not to be found: UUID %s, path %s" %
                      (a.uuid.hex(), ascii(a.path)[1:]))

    def open_ancestor(self, k):
        a = self.ancestors[k]
        if a.image is None:
            path = os.fsdecode(self.find_ancestor(a))
            with Within(path):
                a.image = Image(path)
                refuse_if(a.image.page_size != self.page_size, 54,
                          "an ancestor with another page size")
                refuse_if([(b.name, b.pages) for b in a.image.blocks] !=
                          [(b.name, b.pages) for b in self.blocks], 54,
                          "an ancestor with other blocks")
        return a.image

    def ancestor_page(self, page, entry):
        """The bytes of a page in state ancestor, checked"""
        crc, k = u32(entry, 0), entry[4]
        refuse_if(k >= len(self.ancestors), 36, "%s: in ancestor %d" %
                  (self.where(page), k))
        there = self.open_ancestor(k)
        with Within(there.path):
            state, entry = there.lookup(page)
            refuse_if(state != STORED, 55, "%s: not stored" % self.where(page))
            slot = there.slot_of_entry(page, entry)
            refuse_if(there.locate(page, slot)[3] != crc, 55,
                      "%s: not what it was" % self.where(page))
            return there.stored_page(page, slot)

    # --- page table (section 8) -----------------------------------------------

    def read_node(self, index, offset, length):
        children = min(NODE_LEAVES, self.leaf_count - NODE_LEAVES * index)
        return self.read_inner(NODES, KIND_NODE, index, offset, length,
                               children)

    def read_leaf(self, index, offset, length):
        """States (one byte each) and entries (5 bytes each) of a leaf"""
        what = "leaf %d: " % index
        b, count = self.read_part(LEAVES, KIND_LEAF, index, offset, length)
        refuse_if(length < 2080, 31, what + "too short")
        states = b"".join([FOUR_STATES[x] for x in b[32:2080]])
        pages = min(LEAF_PAGES, self.pages - LEAF_PAGES * index)
        refuse_if(not all_zero(states[pages:]), 32,
                  what + "a page that the guest does not have")
        refuse_if(count != states.count(STORED) + states.count(ANCESTOR), 33,
                  what + "count")
        end = 2080 + 5 * count
        refuse_if(length != round16(end), 33, what + "length and count")
        refuse_if(not all_zero(b[end:]), 34, what + "padding not zero")
        return states[:pages], b[2080:end]

    def walk(self, low, high, ends=None):
        """The page table for the page numbers from low up to high.

        Yields (page, count, states, entries). Where a node or a leaf is not
        there, states is the number ABSENT or ZERO and holds for all the pages.
        What is yielded may begin before low and end behind high. With ends, the
        parts must follow one another (R50): that is where they have come to.
        """
        node_at, node_words = self.root
        for k, node_word in enumerate(node_words):
            first = k * NODE_LEAVES * LEAF_PAGES
            count = min(NODE_LEAVES * LEAF_PAGES, self.pages - first)
            here = first < high and first + count > low
            if node_word < 2:
                if here:
                    yield first, count, node_word, b""
                continue
            if here:
                node = self.read_node(k, node_at, 16 * node_word)
                self.follows(ends, NODES, node_at, 16 * node_word)
                yield from self.walk_node(k, node, low, high, ends)
            node_at += 16 * node_word

    def walk_node(self, k, node, low, high, ends):
        leaf_at, leaf_words = node
        for j, leaf_word in enumerate(leaf_words):
            index = k * NODE_LEAVES + j
            first = index * LEAF_PAGES
            count = min(LEAF_PAGES, self.pages - first)
            here = first < high and first + count > low
            if leaf_word < 2:
                if here:
                    yield first, count, leaf_word, b""
                continue
            if here:
                states, entries = self.read_leaf(index, leaf_at,
                                                 16 * leaf_word)
                self.follows(ends, LEAVES, leaf_at, 16 * leaf_word)
                yield first, count, states, entries
            leaf_at += 16 * leaf_word

    def follows(self, ends, section, at, length):
        """With ends: does the part begin where the one before it ended?"""
        if ends is not None:
            refuse_if(at != ends[section], 50, "section %d: a part not where "
                      "the one before it ends" % section)
            ends[section] += length

    def lookup(self, page):
        """State and entry of one page"""
        if self.leaf_in_hand is None or \
                not 0 <= page - self.leaf_in_hand[0] < self.leaf_in_hand[1]:
            (first, count, states, entries), = self.walk(page, page + 1)
            ends, n = [], 0                     # of the entries of each page
            if not isinstance(states, int):
                for state in states:
                    n += 5 * (state >= STORED)
                    ends.append(n)
            self.leaf_in_hand = first, count, states, entries, ends
        first, _, states, entries, ends = self.leaf_in_hand
        if isinstance(states, int):
            return states, b""
        end = ends[page - first]
        return states[page - first], entries[end - 5:end]

    def slot_of_entry(self, page, entry):
        """The slot that a stored page's entry in its leaf names"""
        slot = u40(entry, 0)
        refuse_if(slot >= self.slots, 37, "%s: slot %d is not there" %
                  (self.where(page), slot))
        return slot

    # --- unit table (section 9) -----------------------------------------------

    def read_unit_leaf(self, index):
        count = min(self.leaf_units, self.units - index * self.leaf_units)
        b, told = self.read_part(UNITS, KIND_UNITS, index,
                                 self.sections[UNITS].offset +
                                 index * self.full_leaf,
                                 32 + count * self.unit_bytes)
        refuse_if(told != count, 35, "unit leaf %d: count" % index)
        return b, count

    def unit_leaf(self, index):
        if index not in self.unit_leaves:
            if len(self.unit_leaves) >= 256:
                self.unit_leaves.clear()
            self.unit_leaves[index] = self.read_unit_leaf(index)[0]
        return self.unit_leaves[index]

    def unit_slot(self, unit, k):
        """Page number and CRC of slot k of a unit"""
        page = u40(unit, 16 + 9 * k)
        refuse_if(page >= self.pages and not (self.coded and page == DEAD), 38,
                  "a slot names page %d, which the guest does not have" % page)
        return page, u32(unit, 21 + 9 * k)

    def check_unit(self, u, unit, k):
        """The head of unit u, as it must be to read slot k of it"""
        data = self.sections[DATA]
        codec, used = unit[6], unit[7] + 1
        offset, length = u48(unit, 0), u32(unit, 8)
        whole = used * self.page_size
        refuse_if(codec != RAW and not (self.coded and codec == ZSTD), 40,
                  "not understood: unit %d: codec %d" % (u, codec))
        refuse_if(used > self.unit_size, 41, "unit %d: too many slots" % u)
        refuse_if(used <= k, 41, "unit %d: too few slots in use" % u)
        refuse_if(length != whole if codec == RAW else
                  length == 0 or length >= whole, 42,
                  "unit %d: number of bytes" % u)
        refuse_if(offset < data.offset or
                  offset + length > data.offset + data.length, 43,
                  "unit %d: not inside the data" % u)
        refuse_if(not self.coded and offset % self.page_size != 0, 43,
                  "unit %d: offset" % u)
        return codec, used, offset, length

    def locate(self, page, slot):
        """Where a page in state stored lies: unit, its head, k and CRC"""
        u, k = divmod(slot, self.unit_size)
        leaf = self.unit_leaf(u // self.leaf_units)
        at = 32 + (u % self.leaf_units) * self.unit_bytes
        unit = leaf[at:at + self.unit_bytes]
        head = self.check_unit(u, unit, k)
        named, crc = self.unit_slot(unit, k)
        refuse_if(named != page, 39, "slot %d is of another page than %s, or "
                  "of none" % (slot, self.where(page)))
        return u, head + (u32(unit, 12),), k, crc

    def decode(self, page, u, head):
        """The pages of a unit of codec 1; page is that which is wanted"""
        if u not in self.decoded:
            _, used, offset, length, crc = head
            stored = self.read(offset, length)
            refuse_if(crc32c(stored) != crc, 44, "%s: wrong CRC of unit %d" %
                      (self.where(page), u))
            plain = zstd_decode(self.zstd, stored, used * self.page_size)
            refuse_if(plain is None, 44, "%s: unit %d does not decode to the "
                      "length it should" % (self.where(page), u))
            if len(self.decoded) >= UNIT_CACHE:
                self.decoded.clear()
            self.decoded[u] = plain
        return self.decoded[u]

    def stored_page(self, page, slot):
        """The bytes of a page in state stored, checked"""
        u, head, k, crc = self.locate(page, slot)
        if head[0] == ZSTD:
            b = self.decode(page, u, head)[k * self.page_size:][:self.page_size]
        else:
            b = self.read(head[2] + k * self.page_size, self.page_size)
        refuse_if(crc32c(b) != crc, 44, "%s: wrong CRC" % self.where(page))
        return b

    def pages_of(self, block):
        """(page in the block, its bytes or None if zero) of pages not absent"""
        low, high = block.first, block.first + block.pages
        for first, count, states, entries in self.walk(low, high):
            if states == ABSENT:
                continue
            if states == ZERO:
                for p in range(max(first, low), min(first + count, high)):
                    yield p - low, None
                continue
            at = 0
            for p, state in enumerate(states, first):
                entry = entries[at:at + 5]
                if state >= STORED:
                    at += 5
                if p < low or p >= high or state == ABSENT:
                    continue
                if state == ZERO:
                    yield p - low, None
                elif state == ANCESTOR:
                    yield p - low, self.ancestor_page(p, entry)
                else:
                    slot = self.slot_of_entry(p, entry)
                    yield p - low, self.stored_page(p, slot)


def uuid_of(path):
    """The UUID of the image there, or None if there is none"""
    try:
        with open(path, "rb") as f:
            h = f.read(4096)
            f.seek(-4096, os.SEEK_END)
            b = f.read(4096)
            length = f.tell()
    except OSError:
        return None
    if len(b) == 4096 and length >= 8192 and h[:16] == HEADER_MAGIC and \
            crc32c(h[:4092]) == u32(h, 4092) and b[:16] == FOOTER_MAGIC and \
            crc32c(b[:4092]) == u32(b, 4092) and u64(b, 16) == length and \
            u32(b, 100) == u32(h, 4092):
        return b[32:48]
    return None


class Within:
    """What is refused in here gets the name of the file before it"""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        pass

    def __exit__(self, kind, e, trace):
        if isinstance(e, Refused):
            raise Refused(e.number, "%s: %s" % (self.path, e.text)) from None


class Ancestor:
    """What section 21 says of one, and the image when it is open"""

    def __init__(self, uuid, path):
        self.uuid = uuid
        self.path = path
        self.image = None


class Section:
    """A section entry of the footer"""

    def __init__(self, e):
        self.type = u32(e, 0)
        self.crc = u32(e, 4)
        self.offset = u64(e, 8)
        self.length = u64(e, 16)
        self.extra = u64(e, 24)


class Block:
    def __init__(self, name, first, pages):
        self.name = name
        self.first = first
        self.pages = pages


FOUR_STATES = [bytes((x & 3, x >> 2 & 3, x >> 4 & 3, x >> 6))
               for x in range(256)]


# --- checking the whole file (R29 to R55) -------------------------------------

def check_zeros(img):
    refuse_if(not all_zero(img.read(4096, img.data_start - 4096)), 46,
              "zeros before data start: a byte that is not zero")


def check_sections(img):
    for s in img.sections.values():
        if s.type >= 16:
            number = 45 if s.type <= DISKS else 47
            refuse_if(not img.section_crc_ok(s), number,
                      "section %d: wrong CRC" % s.type)


def check_unit_table(img):
    """Every unit and slot; returns page numbers and CRCs by slot, unit heads"""
    pages, crcs, heads = array("Q"), array("I"), []
    size, data = img.unit_size, img.sections[DATA]
    at_byte = data.offset
    for index in range(img.unit_leaf_count):
        leaf, count = img.read_unit_leaf(index)                 # R29, R35
        for i in range(count):
            u = index * img.leaf_units + i
            at = 32 + i * img.unit_bytes
            unit = leaf[at:at + img.unit_bytes]
            used = unit[7] + 1 if img.coded else \
                min(size, img.slots - u * size)
            head = img.check_unit(u, unit, used - 1)            # R40 to R43
            _, told, offset, length = head
            refuse_if(told != used, 48, "unit %d: slots in use" % u)
            # the number of bytes is right now, by R42
            refuse_if(offset != at_byte, 48, "unit %d: not at its place" % u)
            at_byte += length
            here = []
            for k in range(used):
                page, crc = img.unit_slot(unit, k)              # R38
                here.append(page)
                crcs.append(crc)
            pages.extend(here)
            pages.extend([NOT_IN_USE] * (size - used))
            crcs.extend([0] * (size - used))
            refuse_if(not all_zero(unit[16 + 9 * used:]), 49,
                      "unit %d: a slot that is not in use is not zero" % u)
            heads.append(head + (u32(unit, 12),))
    refuse_if(at_byte != data.offset + data.length, 48,
              "the last unit does not end with the data")
    return pages, crcs, heads


def check_page_table(img, page_in_slot):
    """Every node and leaf against the footer and the slots

    Returns page and entry of the pages in ancestors.
    """
    counts = [0, 0, 0, 0]
    ends = {t: img.sections[t].offset for t in (NODES, LEAVES)}
    named = bytearray(img.slots)
    elsewhere = []
    for first, count, states, entries in img.walk(0, img.pages, ends):
        if isinstance(states, int):
            counts[states] += count
            continue
        for state in range(4):
            counts[state] += states.count(state)
        at = 0
        for page, state in enumerate(states, first):
            if state < STORED:
                continue
            entry = entries[at:at + 5]
            at += 5
            if state == ANCESTOR:
                refuse_if(entry[4] >= len(img.ancestors), 36,
                          "%s: in ancestor %d" % (img.where(page), entry[4]))
                elsewhere.append((page, entry))
                continue
            slot = img.slot_of_entry(page, entry)               # R37
            refuse_if(page_in_slot[slot] != page, 39,
                      "slot %d is of another page than %s, or of none" %
                      (slot, img.where(page)))
            named[slot] = 1
    for slot, yes in enumerate(named):
        refuse_if(not yes and page_in_slot[slot] < DEAD, 39,
                  "slot %d: its page does not lie there" % slot)
    for t, end in ends.items():
        s = img.sections[t]
        refuse_if(end != s.offset + s.length, 50,
                  "section %d: longer than its parts" % t)
    refuse_if(counts[ZERO] != img.zero or counts[STORED] != img.stored or
              counts[ANCESTOR] != img.ancestor, 51,
              "footer: numbers of pages not those of the leaves")
    return elsewhere


def check_data(img, page_in_slot, crcs, heads):
    """Every page, and raw units by joining the CRCs of their pages"""
    size = img.page_size
    together = CrcJoin(size)
    for u, head in enumerate(heads):
        codec, used, offset, length, unit_crc = head
        first = u * img.unit_size
        pages = page_in_slot[first:first + used]
        if codec == ZSTD and min(pages) == DEAD:
            refuse_if(crc32c(img.read(offset, length)) != unit_crc, 48,
                      "unit %d: wrong CRC" % u)
            continue
        if codec == ZSTD:
            b = img.decode(min(pages), u, head)
        else:
            b = img.read(offset, length)
        crc = 0
        for k, page in enumerate(pages):
            found = crc32c(b[k * size:(k + 1) * size])
            refuse_if(page != DEAD and found != crcs[first + k], 44, "%s: wrong CRC" %
                      img.where(page))
            crc = together.join(crc, found)
        refuse_if(codec == RAW and crc != unit_crc, 48,
                  "unit %d: wrong CRC" % u)


def check_ancestors(img, elsewhere):
    for k in range(len(img.ancestors)):
        img.open_ancestor(k)                                    # R53, R54
    for page, entry in elsewhere:
        img.ancestor_page(page, entry)                          # R44, R55


def check(img):
    check_zeros(img)
    check_sections(img)
    page_in_slot, crcs, heads = check_unit_table(img)
    elsewhere = check_page_table(img, page_in_slot)
    check_data(img, page_in_slot, crcs, heads)
    check_ancestors(img, elsewhere)


# --- the commands -------------------------------------------------------------

def cmd_check(img, out):
    check(img)
    out.write(b"good\n")


def cmd_list(img, out):
    for block in img.blocks:
        for page, b in img.pages_of(block):
            word = b"zero" if b is None or all_zero(b) else b"%08x" % zlib.crc32(b)
            out.write(b"%s %x %s\n" %
                      (block.name, page * img.page_size, word))


def write_zeros(out, length):
    while length > 0:
        n = min(length, CHUNK)
        out.write(bytes(n))
        length -= n


def cmd_block(img, out, name):
    found = [b for b in img.blocks if b.name == os.fsencode(name)]
    if not found:
        raise OSError("no block of the name %s" % name)
    after = 0
    for page, b in img.pages_of(found[0]):
        if b is not None:
            write_zeros(out, (page - after) * img.page_size)
            out.write(b)
            after = page + 1
    write_zeros(out, (found[0].pages - after) * img.page_size)


def cmd_rest(img, out):
    for t in (PREAMBLE, PROLOGUE, ITERABLES, TAIL):
        out.write(img.section_bytes(t))


def text_of(b):
    """UTF-8, and what is none of it byte by byte"""
    codecs.register_error("bytewise", lambda e: (
        "".join(map(chr, e.object[e.start:e.end])), e.end))
    return b.decode("utf-8", "bytewise")


def label_of(img):
    """Section 11: one that is too long, or has a zero byte, is none"""
    b = img.section_bytes(LABEL)
    return b if len(b) <= LABEL_MAX and 0 not in b else b""


def hot_list_of(img):
    """Section 11: one with a page that the guest does not have is none"""
    b = img.section_bytes(HOT)
    pages = [u40(b, at) for at in range(0, len(b) // 5 * 5, 5)]
    good = len(b) % 5 == 0 and len(pages) <= HOT_MAX and \
        all(p < img.pages for p in pages)
    return pages if good else []


def disks_of(img):
    """Section 11: what is in no good form is none"""
    b = img.section_bytes(DISKS)
    if len(b) < 8 or u32(b, 0) > 1 or u32(b, 4) > DISKS_MAX:
        return []
    disks, at = [], 8
    for _ in range(u32(b, 4)):
        disks.append({})
        for key, most in DISK_STRINGS:
            n = u16(b, at)
            text = b[at + 2:at + 2 + n]
            if at + 2 + n > len(b) or n > most or 0 in text:
                return []
            disks[-1][key] = text_of(text)
            at += 2 + n
    return disks if at == len(b) else []


def machine_of(img):
    """Section 10: behind magic and version"""
    b = img.section_bytes(PREAMBLE)
    if b[8:9] != b"\x07":
        return b""
    return b[13:13 + int.from_bytes(b[9:13], "big")]


def devices_of(img):
    """Section 10: the JSON description at the end of the tail; None: not there"""
    b = img.section_bytes(TAIL)[img.sections[TAIL].extra + 1:]
    if not b:
        return None
    length = int.from_bytes(b[1:5], "big")
    return [{"name": d["name"], "instance": d["instance_id"],
             "version": d.get("version")}
            for d in json.loads(b[5:5 + length])["devices"]]


def count_of(img, block):
    counts = [0, 0, 0, 0]
    end = block.first + block.pages
    for first, count, states, _ in img.walk(block.first, end):
        low, high = max(first, block.first), min(first + count, end)
        if isinstance(states, int):
            counts[states] += high - low
        else:
            for state in states[low - first:high - first]:
                counts[state] += 1
    return counts


def cmd_facts(img, out):
    blocks = []
    for b in img.blocks:
        absent, zero, stored, ancestor = count_of(img, b)
        blocks.append({"id": text_of(b.name), "length": b.pages * img.page_size,
                       "stored": stored, "ancestor": ancestor, "zero": zero,
                       "absent": absent})
    data = img.sections[DATA].length
    facts = {"uuid": str(uuid.UUID(bytes=img.uuid)), "page-size": img.page_size,
             "label": text_of(label_of(img)) or None,
             "machine": text_of(machine_of(img)) or None,
             "devices": devices_of(img), "disks": disks_of(img), "blocks": blocks,
             "file-size": img.length, "data-size": data,
             "guest-size": img.pages * img.page_size,
             "size-ratio": round(img.length / (img.pages * img.page_size), 4),
             "compression-ratio": round(data / (img.stored * img.page_size), 4)
             if img.stored else None,
             "hot-pages": len(img.section_bytes(HOT)) // 5,
             "codec": "zstd" if img.coded else "none",
             "postcopy": not img.flags & FLAG_IGNORE_SHARED,
             "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(img.time))
             if img.time else None}
    out.write(json.dumps(facts, indent=1).encode())


def cmd_hot(img, out):
    for page in hot_list_of(img):
        out.write(b"%d\n" % page)


def ram_section(img, out, type, blocks):
    """One RAM section of the stream (section 10), big-endian"""
    out.write(struct.pack(">BI", type, img.ram_sid))
    for block in blocks:
        again = 0                       # 0x20 from the second page on
        for page, b in img.pages_of(block):
            flags = again | (0x02 if b is None else 0x08)
            out.write(struct.pack(">Q", page * img.page_size | flags))
            if not again:
                out.write(bytes([len(block.name)]) + block.name)
            out.write(b"\0" if b is None else b)
            again = 0x20
    out.write(struct.pack(">QBI", 0x10, 0x7e, img.ram_sid))


def cmd_stream(img, out):
    rest = {t: img.section_bytes(t)
            for t in (PREAMBLE, PROLOGUE, ITERABLES, TAIL)}
    out.write(rest[PREAMBLE] + rest[PROLOGUE] + rest[ITERABLES])
    ram_section(img, out, 2, img.blocks)
    if img.flags & FLAG_ENDED:
        ram_section(img, out, 3, [])
    out.write(rest[TAIL])


COMMANDS = {"check": (cmd_check, 1), "list": (cmd_list, 1),
            "block": (cmd_block, 2), "rest": (cmd_rest, 1),
            "stream": (cmd_stream, 1), "facts": (cmd_facts, 1),
            "hot": (cmd_hot, 1)}


def main(args):
    if not args or args[0] not in COMMANDS or \
            len(args) != 1 + COMMANDS[args[0]][1]:
        print("usage: readimg.py check|list|rest|stream|facts|hot IMAGE\n"
              "       readimg.py block IMAGE BLOCK", file=sys.stderr)
        return 1
    out = sys.stdout.buffer
    try:
        COMMANDS[args[0]][0](Image(args[1]), out, *args[2:])
        out.flush()
        return 0
    except Refused as e:
        try:
            out.flush()
            print(e, file=sys.stdout if args[0] == "check" else sys.stderr,
                  flush=True)
        except OSError:
            pass
        return 2
    except (OSError, MemoryError, OverflowError) as e:
        print("readimg.py: %s" % (e or type(e).__name__), file=sys.stderr)
        return 1


if __name__ == "__main__":
    status = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:                     # nobody reads us; keep python quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = status or 1
    sys.exit(status)
