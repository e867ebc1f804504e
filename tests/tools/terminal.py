#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
# Run a command with stderr, and stdout if that is to be, on a terminal.
#
# usage: terminal.py [--behind] [--stdout] RAW COMMAND...
#
# What was written to the terminal goes to the file RAW; what it shows in the end, to standard output:
# a carriage return goes back to the first column, and characters overwrite those that stand there.
# --behind: the command is in the background of this terminal. Exit status: that of the command.
import fcntl
import os
import sys
import termios

args = sys.argv[1:]
behind = args[0] == "--behind"
args = args[behind:]
on_stdout = args[0] == "--stdout"
args = args[on_stdout:]

master, slave = os.openpty()
pid = os.fork()
if pid == 0:
    os.close(master)
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    os.dup2(slave, 2)
    if on_stdout:
        os.dup2(slave, 1)
    os.close(slave)
    if behind:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 97)
        os.setpgid(0, 0)
    os.execvp(args[1], args[1:])
os.close(slave)
raw = b""
while True:
    try:
        piece = os.read(master, 65536)
    except OSError:     # nobody has it open any more
        break
    if not piece:
        break
    raw += piece
_, status = os.waitpid(pid, 0)
with open(args[0], "wb") as f:
    f.write(raw)

rows, column = [bytearray()], 0
for c in raw:
    if c == 13:
        column = 0
    elif c == 10:
        rows.append(bytearray())
        column = 0
    else:
        row = rows[-1]
        row.extend(b" " * (column + 1 - len(row)))
        row[column] = c
        column += 1
sys.stdout.buffer.write(b"".join(row.rstrip() + b"\n" for row in rows if row.rstrip()))
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 97)
