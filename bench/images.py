# SPDX-License-Identifier: BSD-2-Clause
"""Sections of bench/bench: what an image is made of, and in which order it comes back."""

import os
import shlex
import subprocess
import time

import linux

CHAIN = 10
TREE = '/usr/include'
WORKS = {'sum of files': "md5sum | cut -d' ' -f1",
         'read of files': 'cat >/dev/null; echo read'}


class Images:
    def compress(self):
        g = self.big()
        tux = linux.Guest(self.args.qemu, self.snap, 640, TREE, 120, 64)
        capture = tux.directory + '/captured'
        vm = tux.boot()
        tux.snapshot(vm, 'exec:exec cat >' + shlex.quote(capture))
        vm.quit()
        for name, stream in ('self-checking guest', g.captured()), ('Linux', capture):
            self.compress_stream(name, stream)
        coded = self.saved_as('coded', g.captured(), '--compress=zstd:1')
        raw = self.saved_as('raw', g.captured())
        results = self.take_turns({
            name: lambda i=image: g.load_once(
                ('postcopy-ram',), self.load_uri('--postcopy', i), 0, to_the_end=False)
            for name, image in (('coded', coded), ('raw', raw))})
        self.table.ratio('first instruction, zstd:1', 'raw', self.field(results, 'coded', 'first'),
                         self.field(results, 'raw', 'first'), 's', 1.25, False)
        for name, prepare in ('warm', self.warm), ('cold', self.cool):
            results = self.take_turns({
                what: lambda i=image, p=prepare: self.asked(i, p)
                for what, image in (('coded', coded), ('raw', raw))})
            own = [r[0.5] for r in results['coded']]
            self.table.ratio('page asked for, zstd:1, %s, p50' % name, '1 ms', own,
                             [1000] * len(own), 'us', 1.0, False)
            self.table.ratio('page asked for, zstd:1, %s, p50' % name, 'raw', own,
                             [r[0.5] for r in results['raw']], 'us')

    def compress_stream(self, name, stream):
        target = self.directory + '/out'
        sizes = {}

        def run(what, argv):
            if os.path.exists(target):
                os.unlink(target)
            done = self.run(argv, feed=stream)
            sizes[what] = os.path.getsize(target)
            return done

        results = self.take_turns({
            'snap': lambda: run('snap', [self.snap, '--compress=zstd:1', 'save', target]),
            'zstd': lambda: run('zstd', ['sh', '-c', 'zstd -1 -T2 -q >{0} && sync {0}'.format(
                shlex.quote(target))])})
        whole = subprocess.run(['zstd', '-1', '-q', '-c', stream], stdout=subprocess.PIPE,
                               check=True).stdout
        os.unlink(target)
        self.table.ratio('image of %s, zstd:1, size' % name, 'zstd -1', [sizes['snap']],
                         [len(whole)], 'bytes', 1.10, False)
        self.table.ratio('save of %s, zstd:1, speed' % name, 'zstd -1 -T2 and sync',
                         [1 / s for s in self.field(results, 'snap', 'seconds')],
                         [1 / s for s in self.field(results, 'zstd', 'seconds')], '1/s', 0.9)

    def saved_as(self, name, stream, *options):
        """The stream as an image."""
        image = '%s/%s.snap' % (self.directory, name)
        with open(stream, 'rb') as f:
            subprocess.run([self.snap, *options, 'save', image], stdin=f, check=True)
        return image

    def load_uri(self, words, image):
        return 'exec:exec %s %s load %s' % (self.snap, words, shlex.quote(image))

    def chain(self):
        """Each of ten snapshots is based on the one before; the guest rewrites 5 % in between."""
        g = self.new_guest('hot=5%')
        vm = g.start_source()
        vm.capabilities('background-snapshot')
        directory = g.directory + '/chain'
        os.mkdir(directory)
        images = ['%s/%d.snap' % (directory, i) for i in range(CHAIN + 1)]
        for i, image in enumerate(images):
            base = '--base=' + shlex.quote(images[i - 1]) if i else ''
            self.completes(vm, g.tool('%s save %s' % (base, shlex.quote(image))))
            vm.wait_tools_gone(60)
            g.goes_on(vm, 'between two snapshots')
        full = directory + '/full.snap'
        vm.quit()
        subprocess.run([self.snap, 'optimize', images[-1], full], check=True)
        sizes = [os.path.getsize(i) for i in images[1:]]
        self.table.ratio('image on a base, 5 % rewritten, size', 'the base', sizes,
                         [os.path.getsize(images[0])] * CHAIN, 'bytes', 0.07, False)
        for name, prepare in ('warm', self.warm), ('cold', self.cool):
            def once(image, p=prepare):
                for path in images + [full]:
                    p(path)
                return g.load_once(('postcopy-ram',), self.load_uri('--postcopy', image), 0)

            results = self.take_turns({'chain': lambda: once(images[-1]),
                                       'full': lambda: once(full)})
            for what, words, most in (('first', 'first instruction', 1.5),
                                      ('done', 'all pages', None)):
                self.table.ratio('%s, chain of %d, %s' % (words, CHAIN, name), 'full image',
                                 self.field(results, 'chain', what),
                                 self.field(results, 'full', what), 's', most, False)

    def hot(self):
        for name, work in WORKS.items():
            self.hot_work(name, work, 0)
            self.hot_work(name + ', scattered', work, 12)

    def hot_work(self, name, work, copies):
        """With copies there is less room for random data."""
        g = linux.Guest(self.args.qemu, self.snap, self.args.mem, TREE, self.args.mem // 32,
                        self.args.mem // (3 if copies else 2), work, copies)
        vm = g.boot()
        g.snapshot(vm, g.tool('save ' + shlex.quote(g.image)))
        vm.quit()
        new = g.directory + '/optimized.snap'
        g.work_after_load(g.image, '--record')
        subprocess.run([self.snap, 'optimize', g.image, new], check=True)

        def once(image, words):
            for path in g.image, new:
                self.cool(path)
            return g.work_after_load(image, words)

        results = self.take_turns({'none': lambda: once(g.image, '--no-hot'),
                                   'list': lambda: once(g.image, ''),
                                   'optimized': lambda: once(new, '')})
        for who in 'list', 'optimized':
            self.table.ratio('%s after the load, cold, hot list: %s' % (name, who), 'none',
                             self.field(results, who, 'seconds'),
                             self.field(results, 'none', 'seconds'), 's', 0.7, False)
            self.table.ratio('requests meanwhile, hot list: %s' % who, 'none',
                             self.field(results, who, 'requests'),
                             self.field(results, 'none', 'requests'), '', 0.1, False)
        alone = [x for who in results for x in self.field(results, who, 'alone')]
        self.table.ratio('the same work in a guest that is loaded', 'none',
                         alone[:len(results['none'])], self.field(results, 'none', 'seconds'), 's')

    def check(self):
        image = self.big().image

        def run(argv, prepare):
            prepare(image)
            return self.run(argv)

        for name, prepare in ('warm', self.warm), ('cold', self.cool):
            results = self.take_turns({
                'snap': lambda p=prepare: run([self.snap, 'check', image], p),
                'cat': lambda p=prepare: run(['cat', image], p)})
            self.table.ratio('check, %s, speed' % name, 'cat',
                             [1 / s for s in self.field(results, 'snap', 'seconds')],
                             [1 / s for s in self.field(results, 'cat', 'seconds')], '1/s', 0.9)
            self.table.ratio('check, %s, CPU' % name, 'cat', self.field(results, 'snap', 'cpu'),
                             self.field(results, 'cat', 'cpu'), 's')

    def optimize(self):
        image = self.big().image
        target = self.directory + '/optimized'

        def run(argv, prepare):
            if os.path.exists(target):
                os.unlink(target)
            prepare(image)
            os.sync()
            start = time.monotonic()
            subprocess.run(argv, check=True)
            return {'seconds': time.monotonic() - start}

        for name, prepare in ('warm', self.warm), ('cold', self.cool):
            results = self.take_turns({
                'snap': lambda p=prepare: run([self.snap, 'optimize', image, target], p),
                'unsafe': lambda p=prepare: run([self.snap, '--cache=unsafe', 'optimize', image,
                                                 target], p),
                'cp': lambda p=prepare: run(['cp', image, target], p),
                'sync': lambda p=prepare: run(['sh', '-c', 'cp %s %s && sync %s' % (
                    shlex.quote(image), target, target)], p)})
            for who, against in ('snap', 'sync'), ('unsafe', 'cp'):
                self.table.ratio('optimize, raw, %s, speed' % name,
                                 {'sync': 'cp and sync', 'cp': 'cp, both without sync'}[against],
                                 [1 / s for s in self.field(results, who, 'seconds')],
                                 [1 / s for s in self.field(results, against, 'seconds')], '1/s',
                                 0.8)
        if os.path.exists(target):
            os.unlink(target)
