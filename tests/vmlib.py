# SPDX-License-Identifier: BSD-2-Clause
"""A QEMU under test: started, spoken to over QMP, watched and always ended again.

Used by roundtrip and linux-roundtrip; nothing but Python's standard library, and Linux. Everything
that is not as it must be raises Failure; every wait ends at a Deadline.
"""

import atexit
import ctypes
import importlib.machinery
import importlib.util
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TESTS = os.path.dirname(os.path.abspath(__file__))

SKIP = 77               # exit status: the scenario cannot be run here
DEAD_AFTER = 15         # seconds without a heartbeat after which a guest counts as hanging
UNLIMITED = 10 ** 12    # bytes a second
TOKEN = 'QEMU_SNAP_TEST'
accel = 'tcg'           # of all guests; a program may set another


class Failure(Exception):
    """Something was not as it must be."""


class Skip(Exception):
    """This machine lacks something."""


class QmpError(Failure):
    """QEMU refused a command."""


now = time.monotonic
_start = now()
_verbose = False


def set_verbose(on):
    global _verbose
    _verbose = on


def log(text):
    if _verbose:
        print('%8.3f %s' % (now() - _start, text), file=sys.stderr, flush=True)


class Deadline:
    def __init__(self, seconds):
        self.end = now() + seconds
        self.seconds = seconds

    def check(self, doing):
        if now() > self.end:
            raise Failure('timeout (%g s) while %s' % (self.seconds, doing))


# ---- the temporary directory and the processes: gone at the end, however that comes ----

_vms = []
_directories = []


def _clean_up():
    for vm in _vms:
        vm.kill()
    for path in _directories:
        shutil.rmtree(path, ignore_errors=True)


def _on_signal(number, _frame):
    sys.exit(128 + number)


def die_with_me():
    """Run in the child before exec: should this program be killed, QEMU goes too."""
    _libc.prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG


_libc = ctypes.CDLL(None)


def install_cleanup():
    atexit.register(_clean_up)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _on_signal)


def make_directory(keep):
    """A fresh directory under $TMPDIR."""
    path = tempfile.mkdtemp(prefix='qemu-snap-')
    if keep:
        print('%s: kept' % path, file=sys.stderr)
    else:
        _directories.append(path)
    return path


def processes_with(token):
    """[(pid, command line)] of the living processes that have inherited the token."""
    mark = ('%s=%s' % (TOKEN, token)).encode() + b'\0'
    found = []
    for name in os.listdir('/proc'):
        if not name.isdigit():
            continue
        try:
            with open('/proc/%s/environ' % name, 'rb') as f:
                environ = b'\0' + f.read() + b'\0'
            if b'\0' + mark not in environ:
                continue
            with open('/proc/%s/cmdline' % name, 'rb') as f:
                line = f.read().rstrip(b'\0').replace(b'\0', b' ')
        except OSError:         # it has just ended, or is not ours
            continue
        found.append((int(name), line.decode(errors='replace')))
    return found


def tail(path, lines):
    """The last lines of a file, made fit to be shown, at most 64 KiB."""
    try:
        with open(path, 'rb') as f:
            f.seek(max(0, os.stat(path).st_size - 65536))
            text = f.read().decode('ascii', 'replace')
    except OSError:
        return []
    return [''.join(c if c.isprintable() else '?' for c in line[:300])
            for line in text.split('\n')[-lines - 1:] if line]


# ---- the parts of a VM ----

class Qmp:
    """One command at a time may wait for its reply; events are kept in a list."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b''
        self.serial = 0
        self.events = []        # (time, event)
        self.replies = {}       # by id

    def send(self, name, /, **arguments):
        self.serial += 1
        message = {'execute': name, 'id': self.serial}
        if arguments:
            message['arguments'] = {k.replace('_', '-'): v for k, v in arguments.items()}
        try:
            self.sock.sendall(json.dumps(message).encode() + b'\n')
        except OSError as e:
            raise Failure('QEMU is gone: %s' % e) from e
        return self.serial

    def pump(self, seconds):
        """Take what has come, waiting at most so long. False: QEMU has closed its end."""
        if select.select([self.sock], [], [], seconds)[0]:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b''
            if not data:
                return False
            *lines, self.buffer = (self.buffer + data).split(b'\n')
            for line in lines:
                self._take(json.loads(line))
        return True

    def _take(self, message):
        if 'event' in message:
            self.events.append((now(), message))
        elif 'QMP' not in message:
            self.replies[message.get('id')] = message

    def take(self, number):
        """The reply to a command, None while there is none."""
        reply = self.replies.pop(number, None)
        if reply is None:
            return None
        if 'error' in reply:
            raise QmpError('QMP: %s' % reply['error'].get('desc', reply['error']))
        return reply['return']


class Console(threading.Thread):
    """The guest's serial port: its lines with the time at which each was complete."""

    def __init__(self, sock, name):
        super().__init__(daemon=True)
        self.sock = sock
        self.name = name
        self.lines = []         # (time, text); only ever appended to
        self.changed = threading.Condition()

    def run(self):
        rest = b''
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b''
            if not data:
                return
            *lines, rest = (rest + data).split(b'\n')
            if not lines:
                continue
            with self.changed:
                for line in lines:
                    text = line.decode(errors='replace').rstrip('\r')
                    self.lines.append((now(), text))
                    log('%s: %s' % (self.name, text))
                self.changed.notify_all()

    def wait(self, seconds):
        """Until a line may have come."""
        with self.changed:
            self.changed.wait(seconds)

    def send(self, text):
        self.sock.sendall(text.encode())


class VM:
    """One QEMU. The arguments given are those that differ between scenarios."""

    def __init__(self, name, qemu, arguments, directory, deadline, debugcon=True,
                 dead_after=DEAD_AFTER):
        self.name = name
        self.deadline = deadline
        self.dead_after = dead_after
        self.debugcon = debugcon
        self.beat_file = os.path.join(directory, name + '.beats')
        self.error_file = os.path.join(directory, name + '.stderr')
        self.token = '%d.%s.%x' % (os.getpid(), name, time.time_ns())
        qmp, qmp_peer = socket.socketpair()
        serial, serial_peer = socket.socketpair()
        command = [
            qemu, '-accel', accel, '-display', 'none', '-no-user-config', '-nodefaults',
            '-no-reboot',
            '-chardev', 'socket,id=qmp,fd=%d' % qmp_peer.fileno(),
            '-mon', 'chardev=qmp,mode=control',
            '-chardev', 'socket,id=serial,fd=%d' % serial_peer.fileno(),
            '-serial', 'chardev:serial']
        if debugcon:
            command += ['-chardev', 'file,id=beats,path=%s' % self.beat_file,
                        '-device', 'isa-debugcon,chardev=beats,iobase=0xe9']
        command += arguments
        log('%s: %s' % (name, ' '.join(map(shlex.quote, command))))
        with open(self.error_file, 'wb') as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                pass_fds=(qmp_peer.fileno(), serial_peer.fileno()),
                env=dict(os.environ, **{TOKEN: self.token}), preexec_fn=die_with_me)
        _vms.append(self)
        qmp_peer.close()
        serial_peer.close()
        self.console = Console(serial, name)
        self.console.start()
        self.qmp = Qmp(qmp)
        self.command('qmp_capabilities')

    # -- QMP --

    def pump(self, seconds, doing):
        self.deadline.check(doing)
        if not self.qmp.pump(seconds):
            try:
                status = self.process.wait(5)
            except subprocess.TimeoutExpired:
                status = 'none yet'
            raise Failure('QEMU ended while %s (exit status %s)' % (doing, status))

    def command(self, name, /, **arguments):
        number = self.qmp.send(name, **arguments)
        while True:
            result = self.qmp.take(number)
            if result is not None:
                return result
            self.pump(1, 'waiting for the reply to ' + name)

    def capabilities(self, *names):
        self.command('migrate-set-capabilities',
                     capabilities=[{'capability': n, 'state': True} for n in names])

    # -- the guest --

    def beats(self):
        """How often the guest's heart has beaten: bytes to the debug port, or lines."""
        if not self.debugcon:
            return len(self.console.lines)
        try:
            return os.stat(self.beat_file).st_size
        except OSError:
            return 0

    def lines(self):
        return self.console.lines

    def wait_lines(self, enough, doing):
        """Wait until enough(lines) is true, or the guest is found dead."""
        beats, last = self.beats(), now()
        while not enough(self.lines()):
            self.deadline.check(doing)
            if self.process.poll() is not None:
                raise Failure('QEMU ended while %s (exit status %s)'
                              % (doing, self.process.returncode))
            if self.beats() != beats:
                beats, last = self.beats(), now()
            elif now() - last > self.dead_after:
                raise Failure('the guest hangs, no heartbeat for %d s, while %s'
                              % (self.dead_after, doing))
            self.console.wait(0.1)

    def expect_status(self, status):
        got = self.command('query-status')['status']
        if got != status:
            raise Failure('%s: query-status says %s, not %s' % (self.name, got, status))

    # -- the tool it runs --

    def tools(self):
        """What QEMU has started and still runs, its own children's children too."""
        return [p for p in processes_with(self.token) if p[0] != self.process.pid]

    def wait_tools_gone(self, seconds):
        end = now() + seconds
        while self.tools():
            if now() > end:
                raise Failure('still there %g s after the end: %s'
                              % (seconds, '; '.join('%d %s' % t for t in self.tools())))
            time.sleep(0.01)

    def errors(self, lines=20):
        return tail(self.error_file, lines)

    # -- the end --

    def quit(self, seconds=10):
        self.qmp.send('quit')
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure('%s: QEMU does not quit within %g s' % (self.name, seconds)) from None
        self.kill()

    def kill(self):
        """End QEMU and all that it has started. Harmless when repeated."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid, line in processes_with(self.token):
            log('%s: killing %d %s' % (self.name, pid, line))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:                    # lets the console's thread end
            self.console.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass


# ---- a migration ----

class Course:
    """What follow() saw. Times are seconds since the command was sent, None: never."""

    def __init__(self):
        self.status = None      # last word of query-migrate
        self.info = {}          # all it said
        self.done = None        # the final status was seen
        self.first_beat = None  # of the guest
        self.beats = 0
        self.gap = 0.0          # longest time without a heartbeat


FINAL = ('completed', 'failed', 'cancelled', 'postcopy-paused')


def follow(vm, command, uri, doing, to_the_end=True, to_the_beat=False, watch=None):
    """
    Start a migration and watch it: to its end, to the guest's first heartbeat, or both; a failure
    is always the end. This is one loop that never waits for QEMU: its monitor may well be silent
    while the guest runs, and the other way round. watch(seconds, beats) is called all the time.
    """
    course = Course()
    before = last_beats = vm.beats()
    log('%s: %s %s' % (vm.name, command, uri))
    start = last_time = now()
    pending = vm.qmp.send(command, uri=uri)
    asked = False               # what is pending is the command first, then query-migrate
    next_ask = start
    while True:
        vm.pump(0.0005 if to_the_beat and course.first_beat is None else 0.002, doing)
        t, beats = now(), vm.beats()
        if watch:
            watch(t - start, beats)
        if beats != last_beats:
            if course.first_beat is None:
                course.first_beat = t - start
            course.gap = max(course.gap, t - last_time)
            last_beats, last_time = beats, t
        reply = vm.qmp.take(pending) if pending is not None else None
        if reply is not None:
            pending = None
            if asked and reply.get('status') != course.status:
                course.status, course.info = reply.get('status'), reply
                log('%s: %s' % (vm.name, course.status))
                if course.status in FINAL:
                    course.done = t - start
        if pending is None and course.done is None and t >= next_ask:
            pending, asked = vm.qmp.send('query-migrate'), True
            next_ask = t + 0.01
        if course.done is not None and course.status != 'completed' or (
                (course.done is not None or not to_the_end) and
                (course.first_beat is not None or not to_the_beat)):
            course.beats = beats - before
            course.gap = max(course.gap, t - last_time)
            return course
        if course.done is not None and t - start - course.done > vm.dead_after:
            raise Failure('completed, but the guest does not run, while ' + doing)


# ---- what all scenarios share ----

LOAD = re.compile(r'(precopy|cat|raw|postcopy(=\d+)?)(:stopped)?$')
GONE_WITHIN = 2         # seconds the tool may live on after QEMU's `completed`


def ms(seconds):
    return '%.0f' % (seconds * 1000)


def add_common_options(parser, mem, load, timeout):
    add = parser.add_argument
    add('-v', '--verbose', action='store_true')
    add('--qemu', default='qemu-system-x86_64', metavar='PATH')
    add('--snap', default='./qemu-snap', metavar='PATH')
    add('--machine', default='pc')
    add('--mem', type=int, default=mem, metavar='MIB')
    add('--smp', type=int, default=1, metavar='N')
    add('--load', default=load, metavar='MODE,...')
    add('--save-args', default='', metavar='ARGS')
    add('--base-args', metavar='ARGS',
        help='a snapshot is saved with these before, and is the base of the other')
    add('--load-args', default='', metavar='ARGS')
    add('--postcopy-args', default='', metavar='ARGS', help='for loads in postcopy')
    add('--image', metavar='FILE', help='kept; the default is not')
    add('--keep', action='store_true', help='keep the temporary directory')
    add('--timeout', type=float, default=timeout, metavar='SECONDS')


def parse_common_options(parser, words=None):
    # What the scenario of roundtrip asks for, whose options not all programs have.
    parser.set_defaults(kind='background', return_path=False, source_args='', load_qemu=None,
                        huge=None, ignore_shared=False)
    args = parser.parse_args(words)
    args.loads = args.load.split(',') if args.load else []
    for load in args.loads:
        if not LOAD.match(load):
            parser.error('no such load: ' + load)
    args.snap = os.path.abspath(shutil.which(args.snap) or args.snap)
    set_verbose(args.verbose)
    return args


class Scenario:
    """One guest, saved and loaded. A subclass says what the machine is and how it is judged."""

    shares_memory = False   # source and destination have the same: only one of them may run

    def __init__(self, args):
        self.args = args
        self.deadline = Deadline(args.timeout)
        self.directory = make_directory(args.keep)
        self.image = os.path.abspath(args.image or self.directory + '/vm.snap')
        self.figures = {'qemu': '?', 'machine': args.machine, 'mem': args.mem, 'smp': args.smp}

    def machine(self):
        """The words of QEMU's command line that make the machine."""
        raise NotImplementedError

    def qemu(self, _name):
        """The program for the guest of that name."""
        return self.args.qemu

    def goes_on(self, vm, when):
        """The guest runs, with nothing lost; raises Failure if not."""
        raise NotImplementedError

    def about_to_save(self, vm):
        """Called at the last moment before the save begins."""

    def after_save(self, vm):
        """Called as soon as it is over, before the guest is judged."""

    def main(self):
        raise NotImplementedError

    def require_programs(self):
        for program in (self.args.qemu, self.args.snap):
            if not shutil.which(program):
                raise Skip('no ' + program)

    def start(self, name, *more, **options):
        vm = VM(name, self.qemu(name), self.machine() + list(more), self.directory,
                self.deadline, **options)
        version = vm.command('query-version')['qemu']
        self.figures['qemu'] = '%(major)d.%(minor)d.%(micro)d' % version
        return vm

    def tool(self, words):
        """The exec: of a command line of the tool, given as the shell's words."""
        return 'exec:exec %s %s' % (shlex.quote(self.args.snap), words.strip())

    def migrate(self, vm, uri, doing):
        """Save; back comes what was seen. The guest is watched meanwhile."""
        if self.args.kind == 'background':
            try:
                vm.capabilities('background-snapshot')
            except QmpError as e:
                raise Skip('no background snapshots here: %s' % e) from e
        elif self.args.return_path:
            vm.capabilities('return-path')
        vm.command('migrate-set-parameters', max_bandwidth=UNLIMITED)
        self.about_to_save(vm)
        course = follow(vm, 'migrate', uri, doing)
        self.after_save(vm)
        return course

    def save(self, vm):
        """Save a running guest and see that it survives; end it; check the image."""
        args, f = self.args, self.figures
        f['kind'] = args.kind + ('+return-path' if args.return_path else '')
        words = args.save_args
        if args.base_args is not None:
            words += ' --base=' + shlex.quote(self.save_base(vm))
        uri = self.tool('%s save %s' % (words, shlex.quote(self.image)))
        if args.kind == 'ordinary':
            uri = 'exec:tee %s | %s' % (shlex.quote(self.raw_file()),
                                        uri.replace('exec:exec ', ''))
            if 'SANITIZED' in os.environ:   # a saver so slow never catches up
                vm.command('migrate-set-parameters', downtime_limit=20000)
        course = self.migrate(vm, uri, 'saving')
        if course.status != 'completed':
            raise Failure('save: query-migrate says %s %s'
                          % (course.status, course.info.get('error-desc', '')))
        f['save_s'] = '%.2f' % course.done
        f['beats'] = course.beats
        f['gap_ms'] = ms(course.gap)
        if args.kind == 'ordinary':
            f['rounds'] = course.info.get('ram', {}).get('dirty-sync-count')
        elif not course.beats:
            raise Failure('the guest did not run during the background snapshot')
        # With tee in between QEMU is through before the tool is.
        vm.wait_tools_gone(60 if args.kind == 'ordinary' else GONE_WITHIN)
        if args.kind == 'ordinary':     # the source has stopped, as it should
            vm.expect_status('postmigrate')
            if self.shares_memory:
                vm.quit()
                return
            vm.command('cont')
        self.goes_on(vm, 'after the save')
        vm.expect_status('running')
        vm.quit()

        f['image_mib'] = '%.1f' % (os.stat(self.image).st_size / (1 << 20))
        start = now()
        check = subprocess.run([args.snap, 'check', self.image], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False,
                               timeout=args.timeout)
        f['check_s'] = '%.2f' % (now() - start)
        if check.returncode:
            raise Failure('check: exit status %d: %s' % (check.returncode, check.stdout))

    def save_base(self, vm):
        """Take a snapshot before, and let the guest go on for a while; the snapshot's name."""
        path = self.directory + '/base.snap'
        course = self.migrate(vm, self.tool('%s save %s' % (self.args.base_args,
                                                            shlex.quote(path))), 'saving a base')
        if course.status != 'completed':
            raise Failure('save of a base: query-migrate says ' + course.status)
        vm.wait_tools_gone(GONE_WITHIN)
        self.goes_on(vm, 'after the save of a base')
        self.figures['base_mib'] = '%.1f' % (os.stat(path).st_size / (1 << 20))
        return path

    def raw_file(self):
        """The stream as QEMU wrote it; only kept of an ordinary migration."""
        return self.directory + '/raw'

    def stream_file(self):
        """What `load` writes, for the reference `exec:cat`."""
        path = self.directory + '/stream'
        if not os.path.exists(path):
            with open(path, 'wb') as out:
                load = subprocess.run([self.args.snap, 'load', self.image], stdout=out,
                                      stdin=subprocess.DEVNULL, check=False,
                                      timeout=self.args.timeout)
            if load.returncode:
                raise Failure('load to a file: exit status %d' % load.returncode)
        return path

    def load(self, mode, name, to_the_end=True, **options):
        """Load into a new QEMU; back come that and what was seen. Its guest runs."""
        how, percent, stopped = LOAD.match(mode).groups()
        postcopy = how.startswith('postcopy')
        vm = self.start(name, '-incoming', 'defer', *(['-S'] if stopped else []), **options)
        if postcopy:
            vm.capabilities('postcopy-ram')
        if how == 'cat':
            uri = 'exec:exec cat ' + shlex.quote(self.stream_file())
        elif how == 'raw':
            uri = 'exec:exec cat ' + shlex.quote(self.raw_file())
        else:
            words = [self.args.load_args, 'load', shlex.quote(self.image)]
            if postcopy:
                words.insert(1, self.args.postcopy_args + ' --postcopy' + (percent or ''))
            uri = self.tool(' '.join(words))
        course = follow(vm, 'migrate-incoming', uri, 'loading (%s)' % mode,
                        to_the_end=to_the_end, to_the_beat=not stopped)
        if course.done is not None and course.status != 'completed':
            raise Failure('load (%s): query-migrate says %s %s'
                          % (mode, course.status, course.info.get('error-desc', '')))
        if to_the_end:
            vm.wait_tools_gone(GONE_WITHIN)
        if stopped:
            if course.first_beat is not None:
                raise Failure('load (%s): the guest ran' % mode)
            vm.command('cont')
        return vm, course

    def load_and_judge(self, mode, **options):
        """Load, wait until all is loaded, and see that the guest is right."""
        prefix = re.sub('[=:]', '', mode)
        vm, course = self.load(mode, prefix, **options)
        self.goes_on(vm, 'after the load (%s)' % mode)
        vm.expect_status('running')
        if course.first_beat is not None:
            self.figures[prefix + '_first_ms'] = ms(course.first_beat)
        self.figures[prefix + '_done_ms'] = ms(course.done)
        return vm


def load_program(name):
    """The program of that name beside this file, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, TESTS + '/' + name)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


# ---- the end of a test program ----

def run(name, scenario):
    """Run a scenario, print the line of figures, and return the exit status."""
    start = now()
    status, why = 0, None
    try:
        scenario.main()
    except (Failure, OSError, subprocess.SubprocessError) as e:
        status, why = 1, str(e)
    except Skip as e:
        status, why = SKIP, str(e)
    if status == 1:
        for vm in _vms:
            for what, lines in (('stderr', vm.errors()),
                                ('serial', [text for _, text in vm.lines()[-8:]])):
                if lines:
                    print('--- %s, %s:' % (vm.name, what), file=sys.stderr)
                    print('\n'.join(lines), file=sys.stderr)
    word = {0: 'ok', SKIP: 'skipped'}.get(status, 'FAILED')
    figures = dict(scenario.figures, total_s='%.1f' % (now() - start))
    print(' '.join(['result=' + word] + ['%s=%s' % f for f in figures.items()]), flush=True)
    if why:
        print('%s: %s: %s' % (name, word, why), file=sys.stderr, flush=True)
    return status
