#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Damage copies of a file and demand that a command finds it each time.

usage: flip.py flip|cut FILE COUNT SEED COMMAND...

flip: change one byte to another value, at COUNT random places; cut: shorten the file to COUNT
random lengths, and to each of the lengths around its ends. COMMAND is run with the copy's name as
its last argument and must exit with 2 and say something. Prints what was not found.
"""

import os
import random
import subprocess
import sys

kind, name, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
command = sys.argv[5:]
rng = random.Random(seed)
with open(name, "rb") as f:
    whole = f.read()
copy = "%s.damaged.%d" % (name, os.getpid())
missed = 0


def refused(data, what):
    global missed
    with open(copy, "wb") as f:
        f.write(data)
    done = subprocess.run(command + [copy], capture_output=True, check=False)
    if done.returncode != 2 or not done.stderr + done.stdout:
        missed += 1
        print("%s: exit %d, %r" % (what, done.returncode, done.stderr + done.stdout))


if kind == "flip":
    for _ in range(count):
        at = rng.randrange(len(whole))
        value = whole[at] ^ rng.randrange(1, 256)
        refused(whole[:at] + bytes([value]) + whole[at + 1:], "byte %d" % at)
else:
    lengths = [0, 1, 4095, 4096, 4097, 8191, 8192, len(whole) - 4096, len(whole) - 1]
    lengths += [rng.randrange(len(whole)) for _ in range(count)]
    for n in lengths:
        if n < len(whole):
            refused(whole[:n], "cut to %d" % n)
os.unlink(copy)
sys.exit(missed != 0)
