#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Streams with JSON descriptions that are wrong, or odd, in one way each.

usage: describe.py TESTS STREAM IMAGE

STREAM has none (mkstream --json=0); IMAGE is what save made of it. Writes for each kind a stream
KIND.s or, where a save would refuse that, an image KIND.i, and prints a line with the kind and what
info is to say of the devices: "good N", of which there are N, "missing", or "damaged" and words.
TESTS is where readimg.py lies.
"""

import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from readimg import crc32c

GOOD = b'{"page_size": 4096, "devices": [{"name": "d", "instance_id": 1, "version": 2}]}'
MIB = 1 << 20


def devices(members):
    return b'{"devices": [{' + members + b'}]}'


def named(name):
    return devices(b'"name": "' + name + b'", "instance_id": 0')


def numbered(number):
    return devices(b'"name": "d", "instance_id": ' + number)


def many(n):
    return b'{"devices": [' + b','.join([b'{"name":"d","instance_id":0}'] * n) + b']}'


KINDS = {
    'plain': (GOOD, 'good 1'),
    'none-of-them': (b'{"devices": []}', 'good 0'),
    'spaces': (b' \n\t\r{ "devices" :\n[ ] , "a" : 1 }\n ', 'good 0'),
    'last-key-first': (b'{"devices": [{"version": 0, "x": [{}], "instance_id": 4294967295, "name": '
                       b'"d"}], "a": true, "b": false, "c": null, "d": -0.5e+10, "e": ""}', 'good 1'),
    'escapes': (named(br'\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t'), 'good 1'),
    'utf-8': (named('\u00e9\u20ac\U0001f600'.encode()), 'good 1'),
    'longest-name': (named(b'n' * 255), 'good 1'),
    'deep': (b'{"a": ' + b'[' * 767 + b']' * 767 + b', "devices": []}', 'good 0'),
    'huge-string': (b'{"a": "' + b'x' * (5 * MIB) + b'", "devices": []}', 'good 0'),
    'huge-number': (b'{"a": ' + b'9' * 100000 + b', "devices": []}', 'good 0'),
    'longest': (b'{"devices": []' + b' ' * (16 * MIB - 15) + b'}', 'good 0'),
    'most-devices': (many(65536), 'good 65536'),
    # Not good.
    'too-many-devices': (many(65537), 'damaged more devices than there is room for'),
    'too-long': (b'{"devices": []' + b' ' * (16 * MIB - 14) + b'}', 'damaged longer than 16 MiB'),
    'depth-bomb': (b'{"a": ' + b'[' * MIB, 'damaged nested too deeply'),
    'depth-bomb-objects': (b'{"a":' * MIB, 'damaged nested too deeply'),
    'too-deep': (b'{"a": ' + b'[' * 768 + b']' * 768 + b', "devices": []}',
                 'damaged nested too deeply'),
    'no-list': (b'{"page_size": 4096}', 'damaged has no list of devices'),
    'two-lists': (b'{"devices": [], "devices": []}', 'damaged two lists of devices'),
    'array': (b'[]', 'damaged is no object'),
    'number': (b'1', 'damaged is no object'),
    'list-is-object': (b'{"devices": {}}', 'damaged list of devices that is none'),
    'device-is-number': (b'{"devices": [1]}', 'damaged device that is no object'),
    'no-name': (devices(b'"instance_id": 0'), 'damaged device without name or instance'),
    'no-instance': (devices(b'"name": "d"'), 'damaged device without name or instance'),
    'empty-name': (named(b''), 'damaged device without a name'),
    'name-is-number': (devices(b'"name": 1'), 'damaged device without a name'),
    'long-name': (named(b'n' * 256), 'damaged device with a name that is too long'),
    'huge-name': (named(b'n' * MIB), 'damaged device with a name that is too long'),
    'twice': (devices(b'"name": "d", "name": "e", "instance_id": 0'),
              'damaged device that says something twice'),
    'instance-2^32': (numbered(b'4294967296'), 'damaged instance or version out of range'),
    'instance-2^64': (numbered(b'18446744073709551616'), 'damaged instance or version out of range'),
    'instance-2^64+1': (numbered(b'18446744073709551617'),
                        'damaged instance or version out of range'),
    'negative': (numbered(b'-1'), 'damaged instance or version out of range'),
    'fraction': (numbered(b'1.0'), 'damaged instance or version out of range'),
    'exponent': (numbered(b'1e0'), 'damaged instance or version out of range'),
    'text': (numbered(b'"1"'), 'damaged instance or version that is no number'),
    'octal': (numbered(b'01'), 'damaged neither a comma nor an end'),
    'plus': (numbered(b'+1'), 'damaged neither a value nor an end'),
    'point': (numbered(b'1.'), 'damaged impossible number'),
    'minus': (numbered(b'-'), 'damaged impossible number'),
    'no-exponent': (numbered(b'1e'), 'damaged impossible number'),
    'comma-at-end': (devices(b'"name": "d", "instance_id": 0,'), 'damaged neither a key nor an end'),
    'comma-in-list': (b'{"devices": [{"name": "d", "instance_id": 0},]}', 'damaged neither a value nor an end'),
    'no-comma': (b'{"devices": [] "a": 1}', 'damaged neither a comma nor an end'),
    'no-colon': (b'{"devices" []}', 'damaged key without a value'),
    'bare-key': (b'{devices: []}', 'damaged neither a key nor an end'),
    'wrong-end': (b'{"devices": [}', 'damaged neither a value nor an end'),
    'wrong-word': (b'{"a": nul, "devices": []}', 'damaged neither a value nor an end'),
    'word-goes-on': (b'{"a": nulls, "devices": []}', 'damaged neither a comma nor an end'),
    'behind': (GOOD + b'x', 'damaged goes on behind its end'),
    'raw-newline': (named(b'a\nb'), 'damaged control character in a string'),
    'raw-zero': (named(b'a\0b'), 'damaged control character in a string'),
    'zero-escaped': (named(br'a\u0000b'), 'damaged impossible escape in a string'),
    'escape-unknown': (named(br'\x41'), 'damaged impossible escape in a string'),
    'escape-short': (named(br'\u12'), 'damaged impossible escape in a string'),
    'half-a-pair': (named(br'\ud83d'), 'damaged impossible escape in a string'),
    'other-half': (named(br'\ude00'), 'damaged impossible escape in a string'),
    'not-a-pair': (named(br'\ud83d\u0041'), 'damaged impossible escape in a string'),
    'latin-1': (named(b'\xe9'), 'damaged string that is not UTF-8'),
    'overlong': (named(b'\xc0\xaf'), 'damaged string that is not UTF-8'),
    'surrogate': (named(b'\xed\xa0\x80'), 'damaged string that is not UTF-8'),
    'beyond-unicode': (named(b'\xf4\x90\x80\x80'), 'damaged string that is not UTF-8'),
    'zeros': (b'\0' * 100, 'damaged neither a value nor an end'),
    'empty': (b'', 'damaged is empty'),
}

with open(sys.argv[2], 'rb') as f:
    stream = f.read()
with open(sys.argv[3], 'rb') as f:
    image = f.read()


def head(length):
    return b'\6' + struct.pack('>I', length)


def write(kind, rest, said):
    with open(kind + '.s', 'wb') as out:
        out.write(stream + rest)
    print(kind, said)


def add_to_image(kind, rest, said):
    """To the end of its tail, the last section."""
    body, footer = image[:-4096] + rest, bytearray(image[-4096:])
    number, = struct.unpack_from('<I', footer, 104)
    at = 112 + 32 * (number - 1)
    kind_of, _, offset = struct.unpack_from('<IIQ', footer, at)
    assert kind_of == 20
    struct.pack_into('<Q', footer, 16, len(image) + len(rest))
    struct.pack_into('<I', footer, at + 4, crc32c(body[offset:]))
    struct.pack_into('<Q', footer, at + 16, len(body) - offset)
    struct.pack_into('<I', footer, 4092, crc32c(bytes(footer[:4092])))
    with open(kind + '.i', 'wb') as out:
        out.write(body + footer)
    print(kind, said)


for name, (text, words) in KINDS.items():
    as_stream = text.startswith(b'{"') and text.endswith(b'}')      # save looks for that
    (write if as_stream else add_to_image)(name, head(len(text)) + text, words)
for n in range(1, len(GOOD)):           # cut at every byte, the length made right
    add_to_image('cut-%d' % n, head(n) + GOOD[:n], 'damaged')
for n in range(len(GOOD)):              # cut, and the length as it was
    add_to_image('lie-%d' % n, head(len(GOOD)) + GOOD[:n], 'damaged is cut')
for n in range(1, 5):
    add_to_image('head-%d' % n, head(1)[:n], 'damaged is none')
add_to_image('other', b'\5' + head(len(GOOD))[1:] + GOOD, 'damaged is none')
add_to_image('more', head(len(GOOD)) + GOOD + b'x', 'good 1')
write('nothing', b'', 'missing')
