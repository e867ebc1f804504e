#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Write the smallest stream: the example of format.md is the image that is made of it.

One block "m" with two pages of 1024 bytes: the first has the byte 41 throughout, the second is
zero. One device "d" with four bytes of state. No JSON description.

usage: tinystream.py [--return-path]    with the command OPEN_RETURN_PATH
"""

import struct
import sys

FOOTER = b'\x7e'
RAM, DEVICE = struct.pack('>I', 1), struct.pack('>I', 7)
PAGE, ZERO, MEM_SIZE, EOS = 0x08, 0x02, 0x04, 0x10


def word(value):
    return struct.pack('>Q', value)


def name(text):
    return bytes([len(text)]) + text


preamble = (b'QEVM' + struct.pack('>I', 3) + b'\x07' + struct.pack('>I', 4) + b'none' +
            b'\x05' + name(b'configuration/target-page-bits') + struct.pack('>II', 1, 10))
prologue = (b'\x01' + RAM + name(b'ram') + struct.pack('>II', 0, 4) +
            word(2048 | MEM_SIZE) + name(b'm') + word(2048) + word(EOS) + FOOTER + RAM)
pages = (b'\x02' + RAM + word(0 | PAGE) + name(b'm') + b'A' * 1024 +
         word(1024 | 0x20 | ZERO) + b'\0' + word(EOS) + FOOTER + RAM)
tail = (b'\x04' + DEVICE + name(b'd') + struct.pack('>II', 0, 1) + b'\1\2\3\4' +
        FOOTER + DEVICE + b'\0')
if sys.argv[1:] == ['--return-path']:
    preamble += b'\x08\0\1\0\0'
sys.stdout.buffer.write(preamble + prologue + pages + tail)
