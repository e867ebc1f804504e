#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Is what `qemu-snap diff --list --json` says of two images true of the streams they were made of?

usage: truediff.py STREAM-A STREAM-B [PAGE-SIZE] <JSON

The streams are read by readstream.py, and compared page by page, by another checksum than that of
images. Prints the number of pages of each kind. Exit status: 0 all is true; 1 something is not.
"""

import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import readstream

KINDS = 'changed', 'appeared', 'became-zero'


def read(path, page_size):
    """Blocks by the names that they have in JSON."""
    with open(path, 'rb') as f:
        reader = readstream.Reader(f, readstream.Nowhere(), False, page_size)
        reader.run()
    return {in_json(b.name): b for b in reader.blocks.values()}, reader.page_size


def in_json(name):
    """A byte that is not UTF-8 is the code point of that number."""
    return ''.join(chr(ord(c) - 0xdc00) if 0xdc80 <= ord(c) <= 0xdcff else c for c in name)


def kind_of(a, b):
    """What happened to a page; states are 0 absent, 1 zero, more: a checksum."""
    if a > 1 and b > 1:
        return 'changed' if a != b else None
    return 'appeared' if b > 1 else 'became-zero' if a > 1 else None


def ranges_of(a, b, page_size):
    found = []
    for i, states in enumerate(zip(a.state, b.state)):
        kind = kind_of(*states)
        last = found[-1] if found else None
        if last and last['kind'] == kind and last['offset'] + last['length'] == i * page_size:
            last['length'] += page_size
        elif kind:
            found.append({'offset': i * page_size, 'length': page_size, 'kind': kind})
    return found


def pages_of(ranges, page_size):
    return {kind: sum(r['length'] for r in ranges if r['kind'] == kind) // page_size
            for kind in KINDS}


def main(path_a, path_b, page_size='4096'):
    blocks_a, page_size = read(path_a, int(page_size))
    blocks_b, _ = read(path_b, page_size)
    want, total = [], dict.fromkeys(KINDS, 0)
    for name in list(blocks_a) + [b for b in blocks_b if b not in blocks_a]:
        a, b = blocks_a.get(name), blocks_b.get(name)
        row = {'id': name, 'length-a': a and a.length, 'length-b': b and b.length,
               'ranges': [], 'pages': None}
        if a and b:
            row['ranges'] = ranges_of(a, b, page_size)
            row['pages'] = pages_of(row['ranges'], page_size)
            for kind in KINDS:
                total[kind] += row['pages'][kind]
        want.append(row)
    got = json.load(sys.stdin)
    for w, g in zip(want, got['blocks']):
        assert w == g, 'want %s\ngot %s' % (w, g)
    assert len(want) == len(got['blocks']), got
    assert got['page-size'] == page_size and got['pages'] == total, (got['pages'], total)
    print(*(total[kind] for kind in KINDS))


main(*sys.argv[1:])
