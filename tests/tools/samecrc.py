#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Write two pages of 4096 bytes that differ, and have the same CRC-32C.

usage: samecrc.py FILE FILE

The CRC is linear, so what leaves it as it is can be computed: the polynomial itself, at any place.
"""

import os
import random
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import readimg

first = random.Random(1).randbytes(4096)
second = bytearray(first)
for k in range(33):             # the first bit is the lowest of a byte
    if 0x11EDC6F41 >> (32 - k) & 1:
        second[1000 + k // 8] ^= 1 << k % 8
assert first != second and readimg.crc32c(first) == readimg.crc32c(bytes(second))
for path, page in zip(sys.argv[1:], (first, second)):
    with open(path, 'wb') as f:
        f.write(page)
