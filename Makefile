# qemu-snap: make, make check, make lint, make demo, make install.  Any make will do.
.POSIX:
.SUFFIXES:
.SUFFIXES: .c .o

CC = c99
CFLAGS = -O2
ZSTD = 1
BENCH =
PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
BASHDIR = $(PREFIX)/share/bash-completion/completions
ZSHDIR = $(PREFIX)/share/zsh/site-functions

# Told in snap.h alone.
VERSION = `sed -n 's/.*SNAP_VERSION[^0-9]*\([0-9].*\).$$/\1/p' snap.h`
NAME = qemu-snap-$(VERSION)
TAR = tar

# Ours, whatever CPPFLAGS and CFLAGS the builder gives: POSIX.1-2008 with XSI.
STD = -D_POSIX_C_SOURCE=200809L -D_XOPEN_SOURCE=700 -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64

OBJ = snap.o options.o signals.o message.o status.o save.o store.o guard.o load.o send.o \
	postcopy.o serve.o lane.o hostpage.o info.o check.o diff.o optimize.o export.o \
	import.o take.o revert.o monitor.o child.o qmp.o disks.o drives.o json.o \
	describe.o preamble.o outfile.o stream.o tail.o out.o returnpath.o pipe.o image.o \
	pipeline.o units.o index.o identity.o reader.o lookup.o fetch.o scan.o verify.o \
	chain.o hot.o layout.o ram.o table.o marks.o codec.o crc32c.o \
	latency.o aio_pthreads.o
HDR = snap.h options.h signals.h status.h store.h guard.h send.h postcopy.h server.h \
	lane.h hostpage.h child.h qmp.h disks.h drives.h json.h describe.h preamble.h \
	outfile.h stream.h tail.h out.h returnpath.h pipe.h wire.h image.h writer.h \
	reader.h hot.h layout.h ram.h table.h marks.h codec.h crc32c.h latency.h bytes.h \
	aio.h

# What is said of zstd, where it was found: one line, else none.
FLAGS = zstd.flags.$(ZSTD)
HAVE = `cat $(FLAGS)`
LIBS = `sed 's/.*/-lzstd/' $(FLAGS)` -lpthread $(LDLIBS)
FAULT = tests/tools/qemu-snap-fault
TOOLS = tests/tools/mkstream tests/tools/rpclient tests/tools/ringtest tests/tools/crctest

all: qemu-snap

qemu-snap: $(OBJ)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(OBJ) $(LIBS)

.c.o:
	$(CC) $(STD) $(HAVE) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(OBJ): $(HDR) $(FLAGS)

# Is zstd here, and wanted?  Only one of these files is there: with another ZSTD it is
# made anew, and then all objects.
$(FLAGS):
	@rm -f zstd.flags.*; echo '#include <zstd.h>' >$@.c; echo 'int main(void) {' >>$@.c; \
	echo 'return ZSTD_isError(ZSTD_compressBound(1)) != 0; }' >>$@.c; \
	if test "$(ZSTD)" != 0 && \
	    $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@.out $@.c -lzstd 2>/dev/null; \
	then echo -DHAVE_ZSTD; fi >$@.new; rm -f $@.c $@.out; mv $@.new $@

tools: $(TOOLS)

tests/tools/mkstream: tests/tools/mkstream.c bytes.h
	$(CC) $(STD) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -I. -o $@ tests/tools/mkstream.c

tests/tools/rpclient: tests/tools/rpclient.c bytes.h
	$(CC) $(STD) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -I. -o $@ tests/tools/rpclient.c

tests/tools/ringtest: tests/tools/ringtest.c aio_pthreads.o aio.h
	$(CC) $(STD) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -I. -o $@ tests/tools/ringtest.c \
	    aio_pthreads.o -lpthread $(LDLIBS)

tests/tools/crctest: tests/tools/crctest.c crc32c.o crc32c.h
	$(CC) $(STD) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -I. -o $@ tests/tools/crctest.c crc32c.o

# The program with the seam for faults in it; gcc and clang know -include.
$(FAULT): $(OBJ) $(HDR) tests/tools/fault.c tests/tools/fault.h
	$(CC) $(STD) $(HAVE) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -include tests/tools/fault.h -o $@ \
	    $(OBJ:.o=.c) tests/tools/fault.c $(LIBS)

# Installs what the tests need, where that can be done, and runs them.
check:
	sh tests/setup check
	$(MAKE) all tools $(FAULT)
	sh tests/run

# What gcc, clang, their analyzers, cppcheck, shellcheck and mandoc find in the sources.
lint:
	sh tests/setup lint
	sh tests/lint

bench/peer: bench/peer.c bytes.h
	$(CC) $(STD) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -I. -o $@ bench/peer.c

# Figures, against cat and QEMU's own ways.  BENCH=live for background snapshots only.
bench: all tools bench/peer
	bench/bench $(BENCH)

# Large guests, long runs.
check-long: check
	sh tests/matrix
	sh tests/matrix-faults
	tests/arch --table
	sh tests/sanitize
	sh tests/fuzz/run 3600
	LONG=1 sh tests/run tests/fault_test.sh tests/hosts_test.sh

demo:
	sh tests/setup demo
	$(MAKE) all
	sh tests/demo

# The program comes last, when all else has worked, and by a rename: one that runs is not touched.
install: all
	umask 022; mkdir -p "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(MANDIR)/man1" \
	    "$(DESTDIR)$(BASHDIR)" "$(DESTDIR)$(ZSHDIR)"
	cp qemu-snap.1 "$(DESTDIR)$(MANDIR)/man1/qemu-snap.1"
	cp completion/qemu-snap.bash "$(DESTDIR)$(BASHDIR)/qemu-snap"
	cp completion/_qemu-snap "$(DESTDIR)$(ZSHDIR)/_qemu-snap"
	chmod 644 "$(DESTDIR)$(MANDIR)/man1/qemu-snap.1" "$(DESTDIR)$(BASHDIR)/qemu-snap" \
	    "$(DESTDIR)$(ZSHDIR)/_qemu-snap"
	cp qemu-snap "$(DESTDIR)$(BINDIR)/qemu-snap.new"
	chmod 755 "$(DESTDIR)$(BINDIR)/qemu-snap.new"
	mv -f "$(DESTDIR)$(BINDIR)/qemu-snap.new" "$(DESTDIR)$(BINDIR)/qemu-snap"

uninstall:
	rm -f "$(DESTDIR)$(BINDIR)/qemu-snap" "$(DESTDIR)$(MANDIR)/man1/qemu-snap.1" \
	    "$(DESTDIR)$(BASHDIR)/qemu-snap" "$(DESTDIR)$(ZSHDIR)/_qemu-snap"

# The source as one file; of one commit, and by one gzip, always the same bytes, also from the
# tarball itself.  The files are those that git knows, or those of the tarball's MANIFEST; their
# time is the commit's, or SOURCE_DATE_EPOCH.
dist:
	@$(TAR) --version 2>&1 | grep GNU >/dev/null || \
	    { echo "dist needs GNU tar: make dist TAR=gtar" >&2; exit 1; }
	test ! -e .git || { git ls-files && echo MANIFEST; } >MANIFEST
	test ! -e .git || TZ=UTC0 touch -t `TZ=UTC0 git log -1 --no-show-signature --format=%cd \
	    --date=format-local:%Y%m%d%H%M.%S` MANIFEST
	$(TAR) --format=ustar --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
	    --mtime="$${SOURCE_DATE_EPOCH+@}$${SOURCE_DATE_EPOCH-./MANIFEST}" \
	    --transform=s,^,$(NAME)/, -T MANIFEST -cf $(NAME).tar
	gzip -9nf $(NAME).tar

# A package for Debian, of the tarball and in a directory of its own: no object here is touched.
# Not all of build-essential is needed, hence -I and -d.
deb: dist
	dpkg-checkbuilddeps -I
	rm -rf deb.tmp
	mkdir deb.tmp
	$(TAR) -xzf $(NAME).tar.gz -C deb.tmp
	cd deb.tmp/$(NAME) && cp LICENSE debian/copyright && \
	    { echo "qemu-snap ($(VERSION)) unstable; urgency=medium"; echo; \
	    echo "  * Built from the sources of this date."; echo; \
	    sed -n "s/^Maintainer: \(.*\)/ -- \1  `LC_ALL=C date -u -R -r MANIFEST`/p" \
		debian/control; } >debian/changelog
	cd deb.tmp/$(NAME) && DEB_BUILD_OPTIONS=noautodbgsym dpkg-buildpackage -d -b -us -uc
	mv deb.tmp/*.deb .
	rm -rf deb.tmp

clean:
	rm -f qemu-snap $(OBJ) $(TOOLS) $(FAULT) bench/peer zstd.flags.*
	rm -rf deb.tmp qemu-snap-*.tar qemu-snap-*.tar.gz qemu-snap_*.deb
	test ! -e .git || rm -f MANIFEST

.PHONY: all bench tools check lint check-long demo install uninstall dist deb clean
