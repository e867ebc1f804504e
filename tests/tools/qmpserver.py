#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A QEMU as its monitor shows it, well or not: for one client, that of qemu-snap.

usage: qmpserver.py SOCKET LOG OPTION...    ends when the client has gone, or after two minutes

LOG gets a line for each command: its name and arguments, as sorted JSON; then "end LIMIT CAPABILITIES
STATUS FDS" as they are at last, FDS the names of descriptors it was handed and still has.

The machine
  --version=MAJOR.MINOR     10.0
  --status=WORD             of the guest: running, paused, inmigrate, ...
  --migration=WORD[:WORDS]  as if there had been one, and why it is so; postcopy-paused, active, ...
  --on=CAPABILITY           repeatable
  --without=CAPABILITY, --knows=CAPABILITY   which it does not know; which it knows, too
  --disk=NAME:FORMAT:FILE   repeatable; new files are made by the transaction, also if it is refused
  --encrypted               the disks are
  --stops=N                 so often the guest was stopped when `cont` comes
  --job-error=WORDS         with which the job of a commit ends
  --ramblock=TEXT           of x-query-ramblock
The other end of a migration
  --stream=FILE             what migrate brings
  --hold=BYTES              of it, then wait for the file LOG.go; there is LOG.held then
  --fail=WORDS              then the migration fails, with these; "": without any
  --take=BYTES              of migrate-incoming, then its end is closed; all without this
  --paused                  that is a postcopy-paused then
  --loaded=WORD             what the guest is when it is loaded: running
  --runs-first              the migration ends after `cont` only
  --silent-when=WORD        no reply any more when that is what a migration is
What goes wrong, at a command or at the greeting ("greeting"); repeatable
  --refuse=COMMAND:WORDS    an error
  --refuse-late=COMMAND:WORDS  the same, once a migration has completed
  --close=COMMAND           the socket is closed in place of the reply
  --half=COMMAND            and after the half of it
  --say=COMMAND:WHAT        in place of the reply: garbage, nul, deep, empty, endless, hmp, array, silence
In all replies
  --pieces                  a byte at a time, some of them late
  --events                  with events before and behind, all in one
  --wrong-ids               behind the reply to another command
"""

import argparse
import array
import json
import os
import signal
import socket
import sys
import threading
import time

CAPABILITIES = ['xbzrle', 'postcopy-ram', 'return-path', 'background-snapshot']
EVENT = {'timestamp': {'seconds': 1, 'microseconds': 2}, 'event': 'NIC_RX_FILTER_CHANGED',
         'data': {'path': '/machine', 'id': 7, 'return': {}}}
SAYINGS = {
    'garbage': b'\x80\xffqemu\n', 'nul': b'{"return": {"status": "run\0ning"}}\n',
    'deep': b'{"return": ' + b'[' * 100000 + b']' * 100000 + b'}\n', 'empty': b'\n',
    'hmp': b'QEMU 7.2.22 monitor - type \'help\' for more information\r\n(qemu) ',
    'array': b'[{"return": {}}]\n', 'silence': b''}


class Closed(Exception):
    """The end of the connection."""


class Refused(Exception):
    """An error in QEMU's words."""


def pairs(texts):
    return dict(text.split(':', 1) for text in texts)


class Server:
    def __init__(self, args):
        self.args = args
        self.refuse, self.say = pairs(args.refuse), pairs(args.say)
        self.refuse_late = pairs(args.refuse_late)
        self.status = args.status
        self.migration = {}
        if args.migration:
            self.ended(*args.migration.split(':', 1))
        self.on = set(args.on)
        self.limit = 134217728
        self.fds = {}
        self.received = []
        self.disks = [disk.split(':', 2) for disk in args.disk]
        self.nodes = ['#block%d' % i for i in range(len(self.disks))]
        self.below = {}         # by a new node: what was there before
        self.job = None
        self.cancelled, self.continued = threading.Event(), threading.Event()
        self.log = open(args.log, 'a', encoding='utf-8')
        self.c = None

    # -- the machine --

    def run(self, name, a):
        handler = getattr(self, 'do_' + name.replace('-', '_'), None)
        if handler is None:
            raise Refused('The command %s has not been found' % name)
        return handler(a)

    def do_qmp_capabilities(self, _):
        return {}

    def do_query_status(self, _):
        return {'status': self.status, 'running': self.status == 'running'}

    def do_query_migrate(self, _):
        return self.migration

    def do_query_migrate_capabilities(self, _):
        return [{'state': c in self.on, 'capability': c} for c in CAPABILITIES + self.args.knows
                if c != self.args.without]

    def do_query_migrate_parameters(self, _):
        return {'max-bandwidth': self.limit}

    def do_migrate_set_capabilities(self, a):
        for c in a['capabilities']:
            (self.on.add if c['state'] else self.on.discard)(c['capability'])
        return {}

    def do_migrate_set_parameters(self, a):
        self.limit = a['max-bandwidth']
        return {}

    def do_stop(self, _):
        self.status = 'paused'
        return {}

    def do_cont(self, _):
        self.status = 'running'
        return {}

    def do_x_query_ramblock(self, _):
        return {'human-readable-text': self.args.ramblock}

    def do_query_block(self, _):
        return [{'device': 'cd', 'qdev': 'cd'}] + [
            {'device': name, 'inserted': {'node-name': node, 'drv': form, 'file': path, 'ro': False,
                                          'encrypted': self.args.encrypted}}
            for node, (name, form, path) in zip(self.nodes, self.disks)]

    def make_files(self, a):
        for action in a['actions']:
            with open(action['data']['snapshot-file'], 'x', encoding='ascii') as f:
                f.write('of the snapshot\n')

    def do_transaction(self, a):
        self.make_files(a)
        for data in (action['data'] for action in a['actions']):
            i = self.nodes.index(data['node-name'])
            new = data['snapshot-node-name']
            self.below[new] = self.nodes[i], self.disks[i]
            self.nodes[i] = new
            self.disks[i] = [self.disks[i][0], data['format'], data['snapshot-file']]
        return {}

    def do_block_commit(self, a):
        if a['base-node'] != self.below[a['device']][0] or a.get('auto-dismiss') is not False:
            raise Refused('not so')
        if self.status == 'postmigrate':
            raise Refused('Block node is read-only')
        self.job = {'id': a['job-id'], 'type': 'commit', 'status': 'running'}
        return {}

    def do_query_jobs(self, _):
        if self.job is None:
            return []
        if self.job['status'] == 'running':
            self.job['status'] = 'ready'
            if self.args.job_error:
                self.job.update(status='concluded', error=self.args.job_error)
        return [{'id': 'another', 'type': 'backup', 'status': 'concluded'}, dict(self.job)]

    def do_job_complete(self, a):
        i = self.nodes.index(a['id'])
        self.nodes[i], self.disks[i] = self.below.pop(a['id'])
        self.job['status'] = 'concluded'
        return {}

    def do_job_dismiss(self, _):
        self.job = None
        return {}

    # -- migrations --

    def do_getfd(self, a):
        if not self.received:
            raise Refused('No file descriptor supplied via SCM_RIGHTS')
        self.fds[a['fdname']] = self.received.pop(0)
        return {}

    def do_closefd(self, a):
        os.close(self.fds.pop(a['fdname']))
        return {}

    def begin(self, a, work):
        fd = self.fds.pop(a['uri'].split(':')[1])
        self.migration = {'status': 'active', 'ram': {'transferred': 1}}
        threading.Thread(target=work, args=(fd,), daemon=True).start()
        return {}

    def do_migrate(self, a):
        return self.begin(a, self.give)

    def do_migrate_cancel(self, _):
        self.cancelled.set()
        return {}

    def do_migrate_incoming(self, a):
        if self.args.version >= (9, 1) and a.get('exit-on-error') is not False:
            raise Refused('it would exit')
        return self.begin(a, self.swallow)

    def do_migrate_recover(self, a):
        return self.begin(a, self.swallow)

    def ended(self, status, words=None):
        self.migration = dict(self.migration, status=status, **({'error-desc': words} if words else {}))

    def give(self, fd):
        with open(self.args.stream, 'rb') as f:
            stream = f.read()
        hold = self.args.hold if self.args.hold is not None else len(stream)
        try:
            with open(fd, 'wb', buffering=0) as out:
                self.write(out, stream[:hold])
                if self.args.hold is not None:
                    open(self.args.log + '.held', 'x', encoding='ascii').close()
                    while not os.path.exists(self.args.log + '.go') and not self.cancelled.wait(0.02):
                        pass
                    if self.cancelled.is_set():
                        self.ended('cancelled')
                        return
                if self.args.fail is not None:
                    self.ended('failed', self.args.fail)
                    return
                self.write(out, stream[hold:])
        except OSError as e:
            self.ended('failed', 'Unable to write to socket: ' + e.strerror)
            return
        if self.args.background:
            self.status = 'running'
        elif 'background-snapshot' not in self.on:
            self.status = 'postmigrate'
        self.ended('completed')

    @staticmethod
    def write(out, data):
        while data:
            data = data[out.write(data[:65536]):]

    def swallow(self, fd):
        left = self.args.take
        with open(fd, 'r+b', buffering=0) as f:
            while left is None or left > 0:
                data = f.read(65536 if left is None else min(left, 65536))
                if not data:
                    break
                left = left - len(data) if left is not None else None
        if self.args.paused and self.args.take is not None:
            self.status = 'running'
            self.ended('postcopy-paused', 'load of migration failed: Input/output error')
        elif self.args.fail is not None:
            self.ended('failed', self.args.fail)
        elif self.args.take is not None:
            os._exit(1)
        else:
            self.status = self.args.loaded
            if self.args.runs_first:
                self.continued.wait(20)
            self.ended('completed')

    # -- the connection --

    def send(self, at, message):
        if at in self.args.close:
            raise Closed
        data = json.dumps(message).encode() + b'\n'
        if at in self.args.half:
            self.c.sendall(data[:len(data) // 2])
            raise Closed
        if at in self.say:
            what = self.say[at]
            if what == 'endless':
                while True:
                    self.c.sendall(b'{"return": "' + b'x' * 65536)
            self.c.sendall(SAYINGS[what])
            return
        if at != 'greeting' and self.args.events:
            data = json.dumps(EVENT).encode() + b'\n' + data + json.dumps(EVENT).encode() + b'\n'
        if at == 'cont':
            data = self.args.stops * b'{"event": "STOP"}\n' + data
        if at != 'greeting' and self.args.wrong_ids:
            data = b'{"return": {"status": "wrong"}, "id": 4711}\n' + data
        if not self.args.pieces:
            self.c.sendall(data)
            return
        for i in range(len(data)):
            self.c.sendall(data[i:i + 1])
            if i % 50 == 0:
                time.sleep(0.002)

    def command(self, line):
        message = json.loads(line)
        name, a = message['execute'], message.get('arguments', {})
        print(' '.join([name] + ([json.dumps(a, sort_keys=True)] if a else [])), file=self.log, flush=True)
        reply = {}
        if name == 'cont':
            self.continued.set()
        if self.args.silent_when and self.migration.get('status') == self.args.silent_when:
            return
        try:
            if name in self.refuse_late and self.migration.get('status') == 'completed':
                raise Refused(self.refuse_late[name])
            if name in self.refuse:
                if name == 'transaction':
                    self.make_files(a)
                raise Refused(self.refuse[name])
            reply['return'] = self.run(name, a)
        except Refused as e:
            reply['error'] = {'class': 'GenericError', 'desc': str(e)}
        if 'id' in message:
            reply['id'] = message['id']
        self.send(name, reply)

    def serve(self, c):
        self.c = c
        major, minor = self.args.version
        buf = b''
        try:
            self.send('greeting', {'QMP': {'version': {'qemu': {'major': major, 'minor': minor,
                                                                'micro': 0}, 'package': ''},
                                           'capabilities': ['oob']}})
            while True:
                data, more, _, _ = c.recvmsg(65536, socket.CMSG_SPACE(64))
                for _, _, fds in more:
                    self.received += array.array('i', fds)
                if not data:
                    break
                *lines, buf = (buf + data).split(b'\n')
                for line in lines:
                    self.command(line)
        except (Closed, ConnectionError):
            pass
        c.close()
        print('end', self.limit, ','.join(sorted(self.on)) or 'none', self.status,
              ','.join(sorted(self.fds)) or 'none', file=self.log, flush=True)


def version(text):
    return tuple(map(int, text.split('.')))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    add = parser.add_argument
    add('socket')
    add('log')
    add('--version', type=version, default=(10, 0))
    add('--status', default='running')
    add('--loaded', default='running')
    add('--take', type=int)
    add('--hold', type=int)
    add('--stops', type=int, default=0)
    for name in 'migration', 'without', 'stream', 'fail', 'job-error', 'silent-when':
        add('--' + name)
    add('--ramblock', default='')
    for name in 'disk', 'on', 'knows', 'refuse', 'refuse-late', 'close', 'half', 'say':
        add('--' + name, action='append', default=[])
    for name in 'pieces', 'events', 'wrong-ids', 'paused', 'background', 'encrypted', 'runs-first':
        add('--' + name, action='store_true')
    args = parser.parse_args()
    signal.alarm(120)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(args.socket + '.new')
        s.listen(1)
        os.rename(args.socket + '.new', args.socket)    # when it is there, it listens
        s.settimeout(60)
        Server(args).serve(s.accept()[0])


if __name__ == '__main__':
    sys.exit(main())
