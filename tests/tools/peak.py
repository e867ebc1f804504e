#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Run a command, and write its peak memory in KiB to a file.

usage: peak.py FILE COMMAND...
"""

import resource
import subprocess
import sys

status = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as f:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=f)
sys.exit(status)
