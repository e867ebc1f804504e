#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A source with a return path, as QEMU's: it comes to no end before it has its answer.

usage: source.py STREAM COMMAND...

Feeds STREAM to COMMAND, reads its stdout up to a SHUT message, and only then closes the stream.
Prints "shut N", or "no answer" after 30 seconds, and COMMAND's exit status.
"""

import subprocess
import sys
import threading

child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def feed():
    try:
        with open(sys.argv[1], 'rb') as f:
            while True:
                piece = f.read(32768)
                if not piece:
                    break
                child.stdin.write(piece)
                child.stdin.flush()
    except BrokenPipeError:
        print('cut off')


def answer(result):
    result.append(child.stdout.read(8))


got = []
feeder = threading.Thread(target=feed)
reader = threading.Thread(target=answer, args=(got,), daemon=True)
feeder.start()
reader.start()
reader.join(30)
if got and got[0][:4] == b'\0\1\0\4':
    print('shut %d' % int.from_bytes(got[0][4:], 'big'))
else:
    print('no answer' if not got else got[0].hex())
feeder.join(30)
try:
    child.stdin.close()
except BrokenPipeError:
    pass
try:
    print('exit %d' % child.wait(10))
except subprocess.TimeoutExpired:
    child.kill()
    print('hangs')
