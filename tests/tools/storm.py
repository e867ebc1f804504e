#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
# Run a command in a storm of SIGUSR1, from before it begins until it ends.
#
# usage: storm.py FILE COMMAND...
#
# FILE is made, and gets the number of signals. stdin, stdout and stderr are the command's. Exit status:
# that of the command; 98 it did not end in 60 s; 97 a signal ended it. SIGUSR1 is ignored when it
# starts: before it has a handler, the signal would end it.
import os
import signal
import sys
import time

signal.signal(signal.SIGUSR1, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
os.close(0)
os.close(1)
sent, end = 0, time.time() + 60
while True:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
    if time.time() > end:
        os.kill(pid, signal.SIGKILL)
        sys.exit(98)
    os.kill(pid, signal.SIGUSR1)
    sent += 1
    time.sleep(0.0005)
with open(sys.argv[1], "w") as f:
    print(sent, file=f)
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 97)
