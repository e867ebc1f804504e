#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
# Run a command in the background of a terminal that stops those there when they write (stty tostop),
# and have it write: it gets SIGUSR1 again and again.
#
# usage: tostop.py [--stdin] COMMAND...
#
# Its stderr is the terminal, and with --stdin its stdin. Exit status: that of the command; 97: it was
# stopped; 98: it took more than 20 seconds.
import fcntl
import os
import signal
import sys
import termios
import time

args = sys.argv[1:]
on_stdin = args[0] == "--stdin"
args = args[on_stdin:]
master, slave = os.openpty()
modes = termios.tcgetattr(slave)
modes[3] |= termios.TOSTOP
termios.tcsetattr(slave, termios.TCSANOW, modes)
os.set_blocking(master, False)
os.setsid()
fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.dup2(slave, 2)
    if on_stdin:
        os.dup2(slave, 0)
    os.execvp(args[0], args)
end = time.time() + 20
while True:
    os.kill(pid, signal.SIGUSR1)
    done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if done or time.time() > end:
        break
    try:
        os.read(master, 4096)   # or there were no room some day
    except BlockingIOError:
        pass
    time.sleep(0.01)
if not done or os.WIFSTOPPED(status):
    os.kill(pid, signal.SIGKILL)
sys.exit(98 if not done else 97 if os.WIFSTOPPED(status) else status >> 8)
