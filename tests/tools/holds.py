#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Is a source held back until its device state is on stable storage?

usage: holds.py STREAM COMMAND...      COMMAND saves from stdin; needs strace

Feeds STREAM through a pipe, slowly enough for COMMAND to be waiting for input as it does behind
QEMU, and with every fsync slowed down. Demands that when the second fsync (of the device state)
begins, there is more left to write than the pipe has taken: the source cannot have ended. Also the
order of the last steps: fsync, rename, fsync of the directory. Exit status: 0 all was so.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

stream, command = sys.argv[1], sys.argv[2:]
trace = tempfile.NamedTemporaryFile(mode='r', suffix='.strace')
child = subprocess.Popen(
    ['strace', '-f', '-ttt', '-o', trace.name, '-e', 'trace=fsync,rename,renameat,renameat2',
     '-e', 'inject=fsync:delay_enter=300000'] + command, stdin=subprocess.PIPE)
with open(stream, 'rb') as f:
    data = f.read()
# All but the last 200 KiB at once, the rest as QEMU writes it: in pieces, with hardly a pause.
fd = child.stdin.fileno()
sent = 0
while sent < len(data) - 200 * 1024:
    sent += os.write(fd, data[sent:min(sent + 32768, len(data) - 200 * 1024)])
time.sleep(0.2)
while sent < len(data):
    sent += os.write(fd, data[sent:sent + 32768])
written = time.time()
child.stdin.close()
if child.wait() != 0:
    sys.exit('exit status %d' % child.returncode)
calls = re.findall(r'(\d+\.\d+) (fsync|rename)\w*\(', trace.read())
names = [name for _, name in calls]
if names[-3:] != ['fsync', 'rename', 'fsync'] or len(names) < 5:
    sys.exit('steps: ' + ' '.join(names))
second = float(calls[1][0])
if written < second + 0.3:
    sys.exit('the last byte was written %.3f s after the sync of the device state began' %
             (written - second))
