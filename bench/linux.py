# SPDX-License-Identifier: BSD-2-Clause
"""A Linux guest with a tree of files in memory, idle until it is told to sum them up."""

import argparse
import gzip
import os
import re
import shlex
import time

import vmlib

linux_roundtrip = vmlib.load_program('linux-roundtrip')

INIT = r'''#!/bin/busybox sh
/bin/busybox --install -s /bin
PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=90%% data /data
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
cd /tree
sum() { find . -type f -print0 | sort -z | xargs -0 cat | %(work)s; }
dd if=/dev/urandom of=/data/random bs=1M count=%(random)d 2>/dev/null
%(wear)secho "ready $(sum)"
while read -r what number; do
	case $what in
	sum) echo "sum $number $(sum)" ;;
	esac
done
'''
# Memory as it is after some use: copies of the tree come, a half of their files goes, and what the
# work reads lies in the holes.
WEAR = r'''
for i in $(seq %d); do cp -a /tree /data/$i; done
cd /data
find [1-9]* -type f | shuf | awk 'NR %% 2' | xargs rm
cp -a /tree /data/tree
cd /data/tree
'''
READY = re.compile(r'ready (\w+)$')


class Guest(vmlib.Scenario):
    """
    mem, random: MiB; tree: a directory of which at most so many MiB are taken; work: a command
    that prints one word for what it is fed; copies: of the tree, that came and half went before.
    """

    def __init__(self, qemu, snap, mem, tree, most, random, work="md5sum | cut -d' ' -f1",
                 copies=0):
        super().__init__(argparse.Namespace(
            qemu=qemu, snap=snap, machine='pc', mem=mem, smp=1, loads=[], save_args='',
            base_args=None, load_args='', image=None, keep=False, timeout=3600,
            kind='background', return_path=False))
        self.vmlinuz = None
        self.sum = None
        self.tree, self.most, self.random, self.work = tree, most << 20, random, work
        self.wear = WEAR % copies if copies else ''

    def machine(self):
        return ['-machine', 'pc', '-m', '%dM' % self.args.mem, '-kernel', self.vmlinuz,
                '-initrd', self.directory + '/initramfs',
                '-append', 'console=ttyS0 quiet no_timer_check panic=1']

    def start(self, name, *more, **options):
        return super().start(name, *more, debugcon=False, dead_after=120, **options)

    def goes_on(self, vm, when):
        pass

    def make_initramfs(self, busybox):
        cpio = linux_roundtrip.Cpio()
        for name in ('bin', 'dev', 'proc', 'data', 'tree'):
            cpio.add(name, 0o040755)
        cpio.add('dev/console', 0o020600, device=(5, 1))
        with open(busybox, 'rb') as f:
            cpio.add('bin/busybox', 0o100755, f.read())
        cpio.add('init', 0o100755, (
            INIT % {'random': self.random, 'work': self.work, 'wear': self.wear}).encode())
        left = self.most
        for where, dirs, names in os.walk(self.tree):
            dirs.sort()
            there = 'tree' + where[len(self.tree):]
            if where != self.tree:
                cpio.add(there, 0o040755)
            for name in sorted(names):
                path = os.path.join(where, name)
                if os.path.islink(path) or not os.path.isfile(path) or left <= 0:
                    continue
                with open(path, 'rb') as f:
                    data = f.read()
                left -= len(data)
                cpio.add(there + '/' + name, 0o100644, data)
        with open(self.directory + '/initramfs', 'wb') as f:
            f.write(gzip.compress(cpio.finish(), 1))

    def boot(self):
        cache = linux_roundtrip.cached()
        self.vmlinuz = cache + '/vmlinuz'
        self.make_initramfs(cache + '/busybox')
        vm = self.start('source')

        def ready():
            return [m.group(1) for m in (READY.search(t) for _, t in vm.lines()) if m]

        vm.wait_lines(lambda _: ready(), 'waiting for Linux')
        self.sum = ready()[0]
        return vm

    def snapshot(self, vm, uri):
        """At the moment when the guest begins to compute the sum."""
        vm.capabilities('background-snapshot')
        vm.command('migrate-set-parameters', max_bandwidth=vmlib.UNLIMITED)
        vm.console.send('sum 7\n')
        course = vmlib.follow(vm, 'migrate', uri, 'saving')
        if course.status != 'completed':
            raise vmlib.Failure('save: ' + course.status)
        vm.wait_tools_gone(60)

    def work_after_load(self, image, words):
        """
        Revert in postcopy. Seconds from the command until the guest has told the sum, requests of
        the guest until the load was over.
        """
        vm = self.start('load', '-incoming', 'defer')
        vm.capabilities('postcopy-ram')
        answer = re.compile(r'sum 7 (\w+)$')
        seconds = []

        def watch(t, _):
            if not seconds:
                for _, text in vm.lines():
                    m = answer.search(text)
                    if m and m.group(1) != self.sum:
                        raise vmlib.Failure('wrong sum: ' + text)
                    if m:
                        seconds.append(t)

        start = time.monotonic()
        uri = 'exec:exec %s --trace --postcopy %s load %s' % (
            self.args.snap, words, shlex.quote(image))
        course = vmlib.follow(vm, 'migrate-incoming', uri, 'loading', watch=watch)
        if course.status != 'completed':
            raise vmlib.Failure('load: ' + course.status)
        while not seconds:
            vm.pump(0.002, 'waiting for the sum')
            watch(time.monotonic() - start, 0)
        vm.wait_tools_gone(10)
        said = '\n'.join(vm.errors(100))
        start = time.monotonic()
        vm.console.send('sum 8\n')
        vm.wait_lines(lambda lines: any('sum 8 ' in text for _, text in vm.lines()),
                      'waiting for the sum in a loaded guest')
        alone = time.monotonic() - start
        vm.kill()
        return {'seconds': seconds[0], 'alone': alone,
                'requests': int(re.search(r'(\d+) requests', said).group(1)), 'said': said}
