#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Make the first inputs of the fuzzers.

usage: seeds.py DIR    writes DIR/stream/*, DIR/image/*, DIR/return/*, DIR/write/*, DIR/hot/*,
                       DIR/import/*, DIR/qmp/*

SNAP in the environment is the program; mkstream is to be built. The files in seeds/ are streams of
QEMU's, see shorten.py; those in seeds-qmp/ what QEMUs said on their monitors, each line behind the name
of the command, or of what it tells.
"""

import glob
import os
import struct
import subprocess
import sys

FUZZ = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(FUZZ))
TOOLS = os.path.join(TOP, 'tests', 'tools')
MKSTREAM = os.path.join(TOOLS, 'mkstream')
SNAP = os.environ.get('SNAP', os.path.join(TOP, 'qemu-snap'))

SMALL = ['--page-size=1024', '--page-bits', '--json=300', '--devices=3']
PAGES = SMALL + ['--block=pc.ram:12', '--block=m:3', '--section=5']

STREAMS = {
    'plain': PAGES,
    'ordinary': PAGES + ['--kind=ordinary', '--passes=2', '--late-zero=20', '--late-data=20'],
    'return': PAGES + ['--kind=ordinary', '--return-path', '--switchover'],
    'shared': PAGES + ['--kind=ordinary', '--ignore-shared', '--uuid'],
    'shared-background': PAGES + ['--ignore-shared'],
    'early': PAGES + ['--early', '--uuid'],
    'iterables': PAGES + ['--kind=ordinary', '--iterable=dirty-bitmap', '--iterable=htab',
                          '--iterable=stattrib'],
    'background-iterables': PAGES + ['--iterable=dirty-bitmap'],
    'no-json': PAGES + ['--json=0'],
    'untold': ['--block=a:2', '--json=300', '--devices=2'],
    'other-pages': ['--block=a:1', '--json=300', '--devices=2', '--json-page-size=8192'],
    'large-pages': ['--page-size=16384', '--page-bits', '--block=a:2', '--json=300', '--devices=1'],
    'shuffled': PAGES + ['--shuffle', '--zerodata=20', '--absent=20'],
    'cut': PAGES + ['--cut=9000'],
}
BAD = ('magic version no-config no-footer mapped-ram unknown-cap unknown-section vfio ram-version '
       'ram-twice block-twice block-sum block-odd block-empty-name block-nul advise early-unknown '
       'no-block xbzrle compress multifd hook unknown-flag fill unknown-block outside wrong-footer '
       'unknown-element part-unknown packaged unknown-command eof-early').split()

# Of which images are made: options of mkstream, and of save.
IMAGES = {
    'tiny': (SMALL + ['--block=m:2'], ['--unit-pages=2']),
    'units': (SMALL + ['--block=a:9', '--block=b:2', '--shuffle'], ['--unit-pages=4']),
    'single': (SMALL + ['--block=a:5', '--zero=40'], ['--unit-pages=1']),
    'shared': (SMALL + ['--block=a:5', '--kind=ordinary', '--ignore-shared'], ['--unit-pages=2']),
    'iterables': (SMALL + ['--block=a:4', '--kind=ordinary', '--iterable=dirty-bitmap'], []),
    'zero': (SMALL + ['--block=a:4', '--zero=100'], []),
    'absent': (SMALL + ['--block=a:4', '--absent=100', '--zero=0'], []),
    'gap': (['--page-size=8192', '--page-bits', '--block=a:2', '--json=0', '--devices=1'], []),
    'zero-leaves': (SMALL + ['--block=a:16400', '--zero=100'], []),
    'lime': (SMALL + ['--block=pc.ram:1100', '--zero=98'], []),
    'large-unit': (SMALL + ['--block=a:60', '--zero=0'], ['--unit-pages=256']),
}

# The same, if the program has it: pages that repeat, in units of which some are dead in part.
CODED = {
    'coded': (SMALL + ['--block=a:9', '--block=b:2', '--shuffle'], ['--unit-pages=4']),
    'coded-single': (SMALL + ['--block=a:5', '--zero=40'], ['--unit-pages=1']),
    'coded-large': (SMALL + ['--block=a:60', '--zero=0'], ['--unit-pages=256']),
    'coded-late': (SMALL + ['--block=a:30', '--kind=ordinary', '--passes=3', '--late-data=50'],
                   ['--unit-pages=8']),
}


def run(argv, data=b''):
    return subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=True).stdout


def write(path, data):
    with open(path, 'wb') as f:
        f.write(data)


def name(text):
    return bytes([len(text)]) + text


def wide_stream(blocks, pages):
    """One with more RAM than any machine has, of which a few pages come."""
    word, ram, footer = struct.Struct('>Q').pack, struct.pack('>I', 1), b'\x7e'
    total = sum(length for _, length in blocks)
    s = (b'QEVM' + struct.pack('>I', 3) + b'\x07' + struct.pack('>I', 4) + b'none' + b'\x05' +
         name(b'configuration/target-page-bits') + struct.pack('>II', 1, 10) +
         b'\x01' + ram + name(b'ram') + struct.pack('>II', 0, 4) + word(total | 4))
    for block, length in blocks:
        s += name(block) + word(length)
    s += word(0x10) + footer + ram + b'\x02' + ram
    for block, offset, byte in pages:
        s += word(offset | (8 if byte else 2)) + name(block) + (bytes([byte]) * 1024 or b'')
        if not byte:
            s = s[:-1024] + b'\0'
    return (s + word(0x10) + footer + ram + b'\x04\0\0\0\x07' + name(b'd') +
            struct.pack('>II', 0, 1) + b'\1\2\3\4' + footer + b'\0\0\0\x07\0')


NODE = 8192 * 16384 * 1024      # bytes of RAM that a node tells about
WIDE = {
    'nodes': ([(b'm', 2 * NODE + 8193 * 1024)],
              [(b'm', 0, 1), (b'm', 8191 * 1024, 2), (b'm', 8192 * 1024, 0), (b'm', NODE - 1024, 3),
               (b'm', 2 * NODE + 8192 * 1024, 4)]),
    'leaves': ([(b'a', 20000 * 1024), (b'b', 1024)],
               [(b'a', i * 1024, 1) for i in range(8180, 8200)] +
               [(b'a', i * 1024, 0) for i in range(8, 40)] + [(b'b', 0, 5)]),
    'blocks': ([(b'block%d' % i, 1024 * (1 + i * i)) for i in range(40)],
               [(b'block%d' % i, 1024 * (i * i // 2), i % 3) for i in range(40)]),
}


def messages():
    """Messages of a return path, by name."""
    def message(kind, data):
        return struct.pack('>HH', kind, len(data)) + data

    def ask(start, length, block=None):
        data = struct.pack('>QI', start, length)
        return message(4, data) if block is None else message(3, data + name(block))

    def bitmap(block, pages):
        size = (pages + 63) // 64 * 8
        return (message(5, name(block)) + struct.pack('>Q', size) + b'\xa5' * size +
                struct.pack('>Q', 0x0123456789abcdef))

    word = struct.Struct('>I').pack
    shut, pong = message(1, word(0)), message(2, word(0x51534e50))
    return {
        'answers': pong + message(7, b'') + message(6, word(1)) + shut,
        'requests': ask(0, 4096, b'pc.ram') + ask(8192, 4096) + ask(4096, 8192) + ask(0, 4096, b'm') +
        pong + ask(1 << 39, 65536, b'0000:00:02.0/vga.vram') + ask(0, 4096, b'n' * 255) + shut,
        'bitmaps': bitmap(b'pc.ram', 32) + bitmap(b'm', 1) + bitmap(b'n' * 255, 3) +
        message(6, word(1)) + ask(0, 4096, b'm') + shut,
        'outside': ask(4096, 4096, b'm'),
        'unknown-block': ask(0, 4096, b'x'),
        'too-early': ask(0, 4096),
        'serve': pong + ask(0, 4096, b'a') + ask(8192, 4096) + ask(4096, 12288) + shut,
        'serve-bitmaps': bitmap(b'a', 24) + bitmap(b'b', 8) + message(6, word(1)) +
        ask(4096, 4096, b'a') + pong + shut,
        'many': ask(0, 4096, b'pc.ram') + ask(4096, 4096) * 300 + shut,
    }


def has_zstd():
    """Was the program built with it?"""
    with open(glob.glob(os.path.join(TOP, 'zstd.flags.*'))[0], encoding='ascii') as f:
        return f.read().strip() != ''


def chain(save, options, n):
    """The files of a chain of n, the oldest one first; image_fuzz.c says how they are called.

    That of three knows its ancestors from another directory than where they will be.
    """
    pages, files = [(b'm', i * 1024, i % 5) for i in range(40)], []
    for i in range(n):
        name = ('chain/b%d' % (n - 2 - i) if i < n - 1 else
                'chain/new/image' if n > 2 else 'chain/image')
        base = ['--base=' + files[-1]] if files else []
        save(name, wide_stream([(b'm', 44 * 1024)], pages), ['--unit-pages=4'] + base + options[i])
        files.append(name)
        pages = [(b, at, (at >> 10) % 3 + 5 + i if (at >> 10) % (3 + i) == 0 else byte)
                 for b, at, byte in pages]
    data = b''
    for name in files:
        with open(name, 'rb') as f:
            data += f.read()
        os.unlink(name)
    return data


def hot_lists():
    """As hot_fuzz.c takes them: a byte that says where they lie, then the file or section."""
    def numbers(*pages):
        return b''.join(struct.pack('<Q', p)[:5] for p in pages)

    some = numbers(0, 5, 3, 3, 63)
    return {
        'none': b'\0' + b'qemu-snap hot 1\n' + bytes(28),
        'some': b'\0' + b'qemu-snap hot 1\n' + bytes(16) + struct.pack('<Q', 5) + some + bytes(4),
        'section': b'\1' + some,
        'outside': b'\1' + numbers(1, 1 << 39),
    }


# With mapped-ram: options of mkstream, and keys of mapped.py.
MAPPED = {
    'mapped': ([], []),
    'mapped-shared': ([], ['shared=1']),
    'mapped-omit': ([], ['shared=1', 'omit=1']),
    'mapped-early': (['--early', '--uuid', '--page-bits'], []),
    'mapped-background': ([], ['background=1']),
    'mapped-bits': ([], ['tail_bits=1']),
}


def longer(stream):
    """A stream with a device before the RAM, that now has 64 KiB to say."""
    at = stream.index(b'virtio-mem-device-early') + 23 + 8
    size, block = struct.unpack_from('>QQ', stream, at + 8)
    end = at + 36 + (size // block + 63) // 64 * 8
    return (stream[:at + 8] + struct.pack('>Q', block << 19) + stream[at + 16:at + 36] +
            b'\xa5' * 65536 + stream[end:])


def mapped(of, keys):
    """A file with mapped-ram, its pages close behind their bitmap."""
    few = ['--block=pc.ram:3', '--block=m:2', '--json=300', '--devices=2', '--zero=30']
    write('from', run([MKSTREAM] + few + of))
    run([sys.executable, os.path.join(TOOLS, 'mapped.py'), '--make', 'from', 'to', 'align=1'] + keys)
    with open('to', 'rb') as f:
        data = f.read()
    os.unlink('from')
    os.unlink('to')
    return data


def monitor(path):
    """Conversations of all the client's verbs, by the byte that qmp_fuzz.c wants first."""
    said = {}
    with open(path, 'rb') as f:
        for line in f:
            key, data = line.split(b' ', 1)
            said.setdefault(key.decode(), data)
    said['waits'] = b'{"return": {"status": "inmigrate", "running": false}}\n'
    said['paused'] = b'{"return": {"status": "postcopy-paused"}}\n'
    said['gone'] = b'{"return": {"status": "failed", "error-desc": "Unable to write"}}\n'
    start = 'greeting qmp_capabilities '
    look = start + 'query-status none query-migrate-capabilities '
    settings = look + 'query-migrate-parameters '
    disks = settings + 'query-block ok ok event stop ok ok ok setup active event cont active '
    wait = start + 'waits none query-migrate-capabilities '
    job = b'{"return": [{"id": "qemu-snap-00000000-1-%d", "status": "%s"%s}]}\n'
    said['job'] = job % (0, b'ready', b'')
    said['done'] = job % (0, b'concluded', b'')
    said['bad-job'] = job % (1, b'concluded', b', "error": "No space left on device"')
    parts = {
        0: settings + 'query-block x-query-ramblock active bad refused',
        1: settings + 'none',
        2: disks + 'completed query-status ok ok',
        3: settings + 'ok ok event stop ok ok active completed status-after ok ok ok',
        4: disks + 'gone ok job ok job done ok ok bad-job ok query-status ok ok',
        5: wait + 'ok ok waits active query-status completed ok',
        6: wait + 'x-query-ramblock ok ok ok waits active query-status completed ok',
        7: start + 'query-status paused query-migrate-capabilities x-query-ramblock ok ok ' +
           'query-status active query-status paused',
    }
    return {verb: b''.join(said[word] for word in words.split()) for verb, words in parts.items()}


def main():
    base = os.path.abspath(sys.argv[1])
    for kind in ('stream', 'image', 'return', 'write', 'hot', 'import', 'qmp'):
        os.makedirs(os.path.join(base, kind), exist_ok=True)
    os.chdir(base)
    for key, options in STREAMS.items():
        data = run([MKSTREAM] + options)
        # In one piece, and in many.
        write('stream/' + key, b'\0' + data)
        write('stream/pieces-' + key, b'\x18' + data)
        write('import/' + key, bytes([len(data) & 0x38]) + data)
    for kind in BAD:
        write('stream/bad-' + kind, b'\x08' + run([MKSTREAM, '--bad=' + kind] + PAGES))
    tiny = run([sys.executable, os.path.join(TOOLS, 'pagestream.py'), '1024', 'm:2', '0=x41',
                '1=z'])
    wide = {key: wide_stream(*args) for key, args in WIDE.items()}
    for key, data in list(wide.items()) + [('tiny', tiny)]:
        write('stream/' + key, b'\x08' + data)
    many = wide_stream([(b'%d' % i, 1024) for i in range(2000)], [])
    write('stream/too-many-blocks', b'\0' + many[:39000])
    at = tiny.index(b'\x01\0\0\0\x01\x03ram')
    write('stream/too-many-handlers', b'\0' + tiny[:at] + b''.join(
        b'\x01' + struct.pack('>I', 9 + i) + name(b'dirty-bitmap') + bytes(8) + b'\x01\x7e' +
        struct.pack('>I', 9 + i) for i in range(16)) + tiny[at:])
    qemu = {}
    for key in sorted(os.listdir(os.path.join(FUZZ, 'seeds'))):
        with open(os.path.join(FUZZ, 'seeds', key), 'rb') as f:
            qemu[key] = f.read()
        write('stream/' + key, qemu[key])
    for key, data in messages().items():
        write('return/' + key, b'\0' + data)

    def save(image, data, options):
        run([SNAP, '--reproducible'] + options + ['save', image], data)

    for key, (of, options) in IMAGES.items():
        save('image/' + key, run([MKSTREAM] + of), options)
    for key, data in qemu.items():
        save('image/' + key, data[1:], ['--unit-pages=4'])
    for key, data in wide.items():
        save('image/' + key, data, ['--unit-pages=2'])
    save('image/example', tiny, ['--unit-pages=2'])
    zstd = ['--compress=zstd:1'] if has_zstd() else []
    for key, (of, options) in CODED.items() if zstd else ():
        save('image/' + key, run([MKSTREAM] + of), zstd + options)
    os.makedirs('chain/new')
    for key, options in {'based': [[], [], []], 'based-coded': [zstd, zstd, zstd],
                         'based-mixed': [zstd, [], zstd]}.items():
        write('image/' + key, chain(save, options, 2))
        write('image/' + key + '-3', chain(save, options, 3))
    os.removedirs('chain/new')
    for i, (key, (of, keys)) in enumerate(MAPPED.items()):
        write('import/' + key, bytes([8 * i & 0x38]) + mapped(of, keys))
    for key, data in wide.items():
        write('import/' + key, b'\0' + data)
    write('import/long', b'\0' + longer(run([MKSTREAM, '--early'] + PAGES)))
    for key, data in hot_lists().items():
        write('hot/' + key, data)
    for key in os.listdir(os.path.join(FUZZ, 'seeds-qmp')):
        for verb, data in monitor(os.path.join(FUZZ, 'seeds-qmp', key)).items():
            write('qmp/%s-%d' % (key, verb), bytes([verb | 32]) + data)
            write('qmp/%s-%d-pieces' % (key, verb), bytes([verb | 8]) + data)
    deep = b'[' * 767 + b'1' + b']' * 767
    write('qmp/deep', b'\0' + deep + b'\n{"return": ' + deep + b'}\n')
    # Noise; on that, what has the same CRCs; and on that, coded, half of the first again.
    write('write/twins', bytes([40, 0, 0, 1, 2, 2, 0, 17, 0, 0, 2, 7, 39, 1, 2, 2, 0, 17, 0, 0, 4, 7,
                                39, 1, 0, 2, 1, 17, 0, 0, 2, 7, 19]))
    for i in range(24):
        write('write/%d' % i, bytes((i * 37 + k * k * (i + 3) >> 3) & 255
                                    for k in range(30 * i + 9)))
    os.chdir('image')
    run([sys.executable, os.path.join(TOOLS, 'badimage.py'), 'plain', 'example'])


main()
