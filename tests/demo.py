# SPDX-License-Identifier: BSD-2-Clause
"""The demo itself; see tests/demo. usage: demo.py QEMU SNAP"""

import os
import shutil
import subprocess
import sys

import vmlib

MEM = 256
SWEEPS = 2      # the first sweep after a revert began before the snapshot


def say(text=''):
    print(text, flush=True)


def monitor(vm, line, command, **arguments):
    say('  (qemu) ' + line)
    return vm.command(command, **arguments) if command else None


def sweeps(vm):
    return [text for _, text in list(vm.lines()) if text.startswith('sweep ')]


def wait_sweeps(vm, n, doing, show=1):
    vm.wait_lines(lambda lines: sum(t.startswith('sweep ') for _, t in lines) >= n, doing)
    for text in sweeps(vm)[-show:]:
        say('  guest: ' + text)
        if ' bad 0 ' not in text:
            raise vmlib.Failure('the guest found a bad page')


def main():
    qemu, snap = sys.argv[1:3]
    vmlib.install_cleanup()
    directory = vmlib.make_directory(False)
    deadline = vmlib.Deadline(120)
    image = os.path.join(directory, 'vm.snap')
    built = subprocess.run([os.path.join(vmlib.TESTS, 'guest', 'build'), directory],
                           stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        say('qemu-snap is built, but the guest of the demo cannot be built here.')
        return vmlib.SKIP
    arguments = ['-machine', 'pc', '-m', '%dM' % MEM, '-kernel', built.stdout.strip()]
    version = subprocess.run([qemu, '--version'], stdout=subprocess.PIPE, text=True, check=True)
    say(version.stdout.splitlines()[0])
    say()

    say('1. A guest of %d MiB sweeps over its memory, checks every page and rewrites some.' % MEM)
    vm = vmlib.VM('source', qemu, arguments, directory, deadline)
    wait_sweeps(vm, 1, 'starting the guest')

    say('\n2. A snapshot of it, while it goes on:')
    monitor(vm, 'migrate_set_capability background-snapshot on', None)
    vm.capabilities('background-snapshot')
    monitor(vm, 'migrate_set_parameter max-bandwidth 100G', 'migrate-set-parameters',
            **{'max-bandwidth': vmlib.UNLIMITED})
    say('  (qemu) migrate "exec:exec qemu-snap save vm.snap"')
    course = vmlib.follow(vm, 'migrate', 'exec:exec %s save %s' % (snap, image), 'saving')
    if course.status != 'completed':
        raise vmlib.Failure('saving: %s %s' % (course.status, vm.errors()))
    say('  %.2f s; the guest was never away for more than %.0f ms' %
        (course.done, course.gap * 1000))
    say('  vm.snap has %.1f MiB' % (os.path.getsize(image) / 2**20))
    before = len(sweeps(vm))
    wait_sweeps(vm, before + 1, 'going on after the snapshot')

    say('\n3. That QEMU is ended. What is left is the file:')
    vm.quit()
    subprocess.run([snap, 'check', 'vm.snap'], cwd=directory, check=True)

    say('\n4. A new QEMU (-incoming defer) takes it up, and runs before its memory is there:')
    vm = vmlib.VM('revert', qemu, arguments + ['-incoming', 'defer'], directory, deadline)
    monitor(vm, 'migrate_set_capability postcopy-ram on', None)
    vm.capabilities('postcopy-ram')
    say('  (qemu) migrate_incoming "exec:exec qemu-snap --postcopy load vm.snap"')
    course = vmlib.follow(vm, 'migrate-incoming',
                          'exec:exec %s --postcopy load %s' % (snap, image), 'reverting',
                          to_the_beat=True)
    if course.status != 'completed':
        raise vmlib.Failure('reverting: %s %s' % (course.status, vm.errors()))
    say('  first instruction after %.0f ms, all of its memory after %.2f s' %
        (course.first_beat * 1000, course.done))
    say('  It counts on from the snapshot:')
    wait_sweeps(vm, SWEEPS, 'counting on', SWEEPS)
    vm.quit()
    say('\nEvery page was right. Now try your own guest: README.md has the lines.')
    return 0


if not shutil.which(sys.argv[1]):
    sys.exit(vmlib.SKIP)
try:
    sys.exit(main())
except (vmlib.Failure, subprocess.CalledProcessError) as problem:
    say('demo: %s' % problem)
    sys.exit(1)
