#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Cut the power at random moments of a save over an older image, and look at what is left.

usage: powercut.py [--runs=N] [--seed=N] FAULT STREAM OLD [OPTION...]

FAULT is qemu-snap with tests/tools/fault.c in it; it saves STREAM with OPTIONs, --reproducible
among them, over a copy of the image OLD. After each cut the image must be OLD or what a save
without a cut gives, byte for byte; after a save that ended with status 0 it must be the latter,
though what was not synced is lost then, too. Every tenth time another save has to work on what was
left, and to leave nothing but the image. Prints how it went; the seeds of the first third outcomes.
Exit status: 0 there was none, and both others were seen; 1 not.
"""

import os
import random
import subprocess
import sys
import tempfile

CUT = 99


def read(name):
    with open(name, 'rb') as f:
        return f.read()


def save(command, stream, fault, count=None):
    env = dict(os.environ, SNAP_FAULT=fault)
    env.pop('SNAP_FAULT_COUNT', None)
    if count:
        env['SNAP_FAULT_COUNT'] = count
    with open(stream, 'rb') as f:
        done = subprocess.run(command, stdin=f, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, env=env, timeout=60, check=False)
    return done.returncode, done.stderr.decode(errors='replace')


class Cutter:
    def __init__(self, fault, stream, old, options):
        self.stream, self.old = stream, read(old)
        self.command = [fault] + options + ['save', 'i']
        # Both without a cut; the second, which loses what was not synced, to count the syncs.
        for fault_list in '', 'cut:1000000':
            status, said = save(self.command, stream, fault_list, 'count')
            if status != 0:
                sys.exit('a save without a cut: status %d, %s' % (status, said))
            if not fault_list:
                self.new = read('i')
                if subprocess.run([fault, 'check', 'i'], stdout=subprocess.DEVNULL,
                                  check=False).returncode != 0:
                    sys.exit('a save without a cut: the image is bad')
        if self.new == self.old:
            sys.exit('the older image is no different one')
        self.syncs = int(read('count').split()[3])
        os.unlink('count')
        self.clean()

    def clean(self):
        for name in os.listdir('.'):
            os.unlink(name)

    def once(self, n, seed, again):
        """What is there after a cut at sync n: a word, and why it is wrong or ''."""
        with open('i', 'wb') as f:
            f.write(self.old)
        status, said = save(self.command, self.stream, 'cut:%d:%d' % (n, seed))
        if status not in (0, CUT):
            return 'third', 'status %d: %s' % (status, said)
        try:
            left = read('i')
        except FileNotFoundError:
            return 'third', 'no image'
        what = 'old' if left == self.old else 'new' if left == self.new else 'third'
        why = '' if what != 'third' else 'another image of %d bytes' % len(left)
        if status == 0 and what != 'new':
            what, why = 'third', 'lost after success: %s %s' % (what, why)
        if again and what != 'third':
            status, said = save(self.command, self.stream, '')
            if status != 0 or read('i') != self.new or os.listdir('.') != ['i']:
                return 'third', 'another save: %d, %s %s' % (status, said, os.listdir('.'))
        return what, why

    def runs(self, number, seed):
        rng = random.Random(seed)
        seen = {'old': 0, 'new': 0, 'third': 0}
        for i in range(number):
            n, cut_seed = rng.randint(1, self.syncs + 1), rng.getrandbits(31)
            what, why = self.once(n, cut_seed, i % 10 == 0)
            seen[what] += 1
            if what == 'third' and seen[what] <= 5:
                print('SNAP_FAULT=cut:%d:%d: %s' % (n, cut_seed, why.strip()))
            self.clean()
        return seen


def main(args):
    number, seed = 200, 1
    while args and args[0].startswith('--'):
        name, _, value = args.pop(0).partition('=')
        if name == '--runs':
            number = int(value)
        elif name == '--seed':
            seed = int(value)
        else:
            sys.exit('powercut.py: unknown option ' + name)
    fault, stream, old = (os.path.abspath(a) for a in args[:3])
    with tempfile.TemporaryDirectory(prefix='powercut.', dir='.') as tmp:
        os.chdir(tmp)
        cutter = Cutter(fault, stream, old, args[3:])
        seen = cutter.runs(number, seed)
        os.chdir('..')
    print('%d cuts at %d syncs: %d old, %d new, %d third' %
          (number, cutter.syncs, seen['old'], seen['new'], seen['third']))
    sys.exit(seen['third'] > 0 or seen['old'] == 0 or seen['new'] == 0)


if __name__ == '__main__':
    main(sys.argv[1:])
