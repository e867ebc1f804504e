#!/bin/sh
# Any host: built with other compilers and libcs, for 32 and 64 bits and for both byte orders, the
# program makes the same files of the same input, and says the same. Emulated where it must be. As
# the bytes are the same, what one host wrote is what all others read.

. "$(dirname "$0")/lib.sh"

free_of_make
program=$SNAP

oneTimeSetUp() {
	work=$SHUNIT_TMPDIR
	began=$PWD	# where shunit2 finds this script
	mkdir "$work/in" "$work/bad" "$work/far" "$work/expected" "$work/zstd" && cd "$work/in" || exit 1
	mk plain
	mk changed --change=7:10
	mk ordinary --kind=ordinary --passes=2 --late-zero=20 --late-data=10 --absent=10 --shuffle \
		--block=a:1500 --block=b:1
	mk small --kind=ordinary --page-size=1024 --page-bits --uuid --iterable=dirty-bitmap --early
	mk large --page-size=65536 --page-bits --block=a:40 --block=b:1
	mk one-page --block=a:1
	mk one-mib --block=pc.ram:256 --zero=0
	python3 "$TOOLS/pagestream.py" 4096 m:1073741824 0=r1 5=z 8192=x01 536870912=c2 \
		1073741823=r2 >4-tib
	python3 "$TOOLS/pagestream.py" 4096 m:2097152 1=r1 2097151=r2 >8-gib
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >tiny
	cd "$work/bad" && "$SNAP" --reproducible --unit-pages=2 --cluster-size=64K save i <../in/tiny &&
		python3 "$TOOLS/badimage.py" plain i >kinds && rm i
	cd "$work/far" && "$SNAP" --unit-pages=4 --reproducible save near <../in/changed &&
		python3 "$TOOLS/badimage.py" far near far
	cd "$work/expected" || exit 1
	everything
	# What all of the comparisons rest on: there is something to compare, and it went well.
	assertEquals "verbs that failed" "" "$(sed -n '/bad/!{/^exit [^0]/p;}' said)"
	assertTrue "images" "[ $(ls -- *.snap | wc -l) -ge 11 ]"
	assertTrue "lies" "[ $(grep -c '^exit 2 check .*bad$' said) -ge 80 ]"
	# zstd of the system, for a libc that does not look there.
	cp "$(cc -print-file-name=libzstd.a)" /usr/include/zstd*.h "$work/zstd" 2>/dev/null
	cd "$began" || exit 1
}

setUp() { SNAP=$program; }
tearDown() { cd "$began" && rm -rf "$work/src" "$work/host"; }

# try OUT IN ARG...: the program with these arguments; what it says goes to the file said.
try() {
	try_out=$1 try_in=$2
	shift 2
	"$SNAP" "$@" >"$try_out" 2>err <"$try_in"
	echo "exit $? $*" >>said
	sed 's/[0-9]* MiB are free/N MiB are free/' err >>said
}

# Into the working directory, a fresh one beside in and bad: what all verbs make of it all.
everything() {
	for stream in ../in/*; do
		try /dev/null "$stream" --reproducible save "${stream##*/}.snap"
	done
	try /dev/null ../in/changed --reproducible --base=plain.snap save based.snap
	[ -f ../hot ] || python3 "$TOOLS/hotlist.py" make ../hot plain.snap 200 7 9 1
	cp ../hot plain.snap.hot
	try /dev/null /dev/null --reproducible --label=x optimize plain.snap hot.snap
	try /dev/null /dev/null --reproducible optimize based.snap dense.snap
	try /dev/null /dev/null export --to=mapped-ram based.snap mapped
	try /dev/null /dev/null --reproducible import mapped from-mapped.snap
	try /dev/null /dev/null export --to=stream based.snap stream
	try /dev/null /dev/null --reproducible import stream from-stream.snap
	try /dev/null /dev/null export --to=raw --block=pc.ram based.snap raw
	try /dev/null /dev/null export --to=lime one-mib.snap lime
	# Too long to be compared, but not to be read once more.
	try /dev/null /dev/null export --to=mapped-ram 8-gib.snap huge
	try /dev/null /dev/null --reproducible import huge from-huge.snap
	rm huge
	try /dev/null /dev/null export --to=raw --block=m 4-tib.snap huge
	tail -c 4096 huge >last
	rm huge
	for image in *.snap; do
		try "$image.load" /dev/null load "$image"
		try "$image.check" /dev/null check "$image"
		try "$image.info" /dev/null info "$image"
		try "$image.json" /dev/null info --json "$image"
	done
	try diff /dev/null diff --list --paranoid plain.snap based.snap
	try diff.json /dev/null diff --json plain.snap changed.snap
	try far /dev/null diff --paranoid plain.snap ../far/far
	try far.info /dev/null info ../far/far
	for image in ../bad/*.bad; do
		try /dev/null /dev/null check "$image"
	done
	rm err
}

# host CC [EMULATOR [MAKE-OPTION...]]: build for a host, and demand the same of it.
host() {
	cc=$1 emulator=${2-} flags=$strict
	requires "$cc" && requires "${emulator:-sh}" || return
	shift $(($# < 2 ? $# : 2))
	case $* in
	*-static*) static=-static ;;
	*) static= ;;
	esac
	echo 'int main(void) { return 0; }' >"$work/try.c"
	$cc $static -o "$work/try" "$work/try.c" 2>/dev/null && $emulator "$work/try" ||
		skip "no libc for $cc here, or it does not run" || return
	[ "$cc" = tcc ] && flags=-O2 || cc="$cc -std=c99 -pedantic-errors"
	dir=$work
	copy "$work/src"
	silent make -s -j2 CC="$cc" CFLAGS="$flags" "$@" all tools
	SNAP=$work/src/qemu-snap
	if [ -n "$emulator" ]; then
		mv qemu-snap emulated
		printf '#!/bin/sh\nexec %s %s "$@"\n' "$emulator" "$work/src/emulated" >qemu-snap
		chmod +x qemu-snap
	fi
	mkdir "$work/host" && cd "$work/host" || return
	everything
	assertEquals "other files" "" "$(diff -r ../expected . 2>&1 | head -n 20)"
	run $emulator ../src/tests/tools/crctest
	expect 0 ""
	for workers in 0 4; do
		: >file
		run $emulator ../src/tests/tools/ringtest $workers 9 1 file
		expect 0 ""
	done
	served plain.snap plain --postcopy
	served based.snap changed --postcopy=50
	coded
}

# served IMAGE STREAM OPTION: in postcopy, all pages of the stream come.
served() {
	serve --dump --timeout=60 --requests=200 --burst=8 --repeat --before-run -- "$3" load "$1"
	grep -v -e ' zero$' -e '^pages ' out | sort >got
	pages_of <"../in/$2" | grep -v ' zero$' | sort >want
	assertTrue "pages in postcopy" "cmp want got"
}

# Compressed, the pages are the same; the bytes are those of one version of zstd.
coded() {
	has_zstd || return 0
	for pair in "$SNAP $program" "$program $SNAP" "$SNAP $SNAP"; do
		"${pair% *}" --reproducible --compress=zstd save coded <../in/plain &&
			"${pair#* }" load coded >loaded
		assertEquals "$pair" 0 $?
		assertTrue "$pair: compressed pages" "cmp loaded plain.snap.load"
	done
}

test_gcc() {
	host gcc
	return 0
}

test_clang() {
	host clang
	return 0
}

test_tcc() {
	host tcc
	return 0
}

test_musl() {
	host musl-gcc "" LDFLAGS="-static -L$work/zstd" CPPFLAGS="-I$work/zstd" || return 0
	[ ! -f "$work/zstd/libzstd.a" ] || assertTrue "zstd" has_zstd
}

# The only one of 32 bits that is quick enough to read a file of 4 GiB, and to write one.
test_i686() {
	host i686-linux-gnu-gcc "" LDFLAGS=-static || return 0
	run "$SNAP" check ../far/far
	expect 0 ""
	"$SNAP" load ../far/near >near
	"$SNAP" load ../far/far >far
	assertTrue "loaded from far away" "cmp near far"
	[ "${LONG-}" ] || return 0
	"$TOOLS/mkstream" --block=a:1130000 --zero=0 | "$SNAP" save long
	assertTrue "length" "[ $(size_of long) -gt 4500000000 ]"
	run "$program" check long
	expect 0 ""
	assertEquals "$("$program" load long | cksum)" "$("$SNAP" load long | cksum)"
}

test_arm() {
	host arm-linux-gnueabihf-gcc qemu-arm-static LDFLAGS=-static
	return 0
}

test_s390x() {
	host s390x-linux-gnu-gcc qemu-s390x-static LDFLAGS=-static
	return 0
}

test_mips() {
	host mips-linux-gnu-gcc qemu-mips-static LDFLAGS=-static
	return 0
}

# ---- what a host may lack ----

# What is called of the C library, where nothing but POSIX is: all of it is in POSIX.1-2008, and in
# macOS, FreeBSD, OpenBSD and NetBSD.
posix="access alarm calloc clock_gettime close closedir connect dup2 fclose fcntl ferror fflush
	fopen fork fputc fputs fread free fstat fstatvfs fsync ftruncate fwrite getcwd getpgrp
	getpid gmtime isatty kill link lseek lstat malloc memchr memcmp memcpy memmove memset open
	opendir pipe poll posix_memalign pread printf pthread_cond_broadcast pthread_cond_destroy
	pthread_cond_init pthread_cond_signal pthread_cond_wait pthread_create pthread_join
	pthread_mutex_destroy pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock
	pthread_sigmask putc putchar puts pwrite qsort raise read readdir realloc realpath rename
	sendmsg setsid setsockopt sigaction sigemptyset sigfillset signal sigprocmask snprintf
	socket socketpair stat stdout strchr strcmp strcpy strcspn strerror strlen strncmp strrchr
	strspn strstr sysconf tcgetpgrp time unlink vsnprintf waitpid write writev"
headers="dirent.h errno.h fcntl.h inttypes.h limits.h poll.h pthread.h signal.h stdarg.h stddef.h
	stdint.h stdio.h stdlib.h string.h sys/socket.h sys/stat.h sys/statvfs.h sys/types.h
	sys/uio.h sys/un.h sys/wait.h time.h unistd.h"

test_headers_are_those_of_posix() {
	(cd "$TOP" && sed -n 's/^# *include *<\(.*\)>.*/\1/p' ./*.c ./*.h | sort -u) >"$work/used"
	assertTrue "headers were found" "[ $(wc -l <"$work/used") -gt 15 ]"
	# The others are asked for behind a look at the compiler, or for the library.
	assertEquals "arm_acle.h cpuid.h zstd.h" \
		"$(printf '%s\n' $headers | sort | comm -13 - "$work/used" | xargs)"
}

# Each thing alone, and all of them, are left out: the same images, and everything still works.
test_every_switch() {
	switches=$(cd "$TOP" && grep -hoE '\bNO_[A-Z_]+' aio_pthreads.c crc32c.c | sort -u)
	assertTrue "switches were found" "[ $(echo "$switches" | wc -l) -ge 10 ]"
	assertEquals "PORTING.md has them all" "$switches" \
		"$(sed -n 's/^| `\(NO_[A-Z_]*\)` .*/\1/p' "$TOP/PORTING.md" | sort)"
	dir=$work
	copy "$work/src"
	for switch in "" $switches all; do
		# What macOS has; here it fails, as it may there.
		flags="-DF_FULLFSYNC=-1"
		case $switch in
		'') ;;
		all) flags="$flags$(printf ' -D%s' $switches)" ;;
		*) flags="$flags -D$switch" ;;
		esac
		rm -f aio_pthreads.o crc32c.o
		silent make -s ZSTD=0 CC=cc CPPFLAGS="$flags" CFLAGS="$strict -O1" all
		SNAP=$work/src/qemu-snap
		cat aio_pthreads.o crc32c.o | cksum >"$work/objects$switch"
		[ -z "$switch" ] || assertFalse "$switch makes no difference" \
			"cmp -s '$work/objects' '$work/objects$switch'"
		mkdir "$work/host" && cd "$work/host" || return
		for cache in none directsync writeback; do
			run_on ../in/ordinary "$SNAP" --cache=$cache --reproducible save ordinary.snap
			assertEquals "$switch: $(cat err)" 0 "$status"
			assertTrue "$switch: the image" "cmp ordinary.snap ../expected/ordinary.snap"
			run "$SNAP" --cache=$cache load ordinary.snap
			assertEquals "$switch: $(cat err)" 0 "$status"
			assertTrue "$switch: the stream" "cmp out ../expected/ordinary.snap.load"
		done
		served ordinary.snap ordinary --postcopy
		case $switch in
		NO_DIRECT | NO_EXTENSIONS | all)
			run "$SNAP" --cache=none check ordinary.snap
			assertContains "direct I/O is done without" "$(cat err)" "no direct I/O here"
			;;
		esac
		cd "$work/src" && rm -r "$work/host"
	done
	requires nm || return 0
	# Names of the implementation's own begin with _, and end with 64 where off_t has two sizes.
	nm -u ./*.o | sed -n -e 's/64$//' -e 's/__sysv_//' -e 's/^ *U \([^_].*\)/\1/p' | sort -u >called
	nm ./*.o | sed -n 's/.* [A-TV-Z] \([^_].*\)/\1/p' | sort -u >ours
	assertTrue "calls were found" "[ $(wc -l <called) -gt 50 ]"
	assertEquals "not POSIX" "" "$(printf '%s\n' $posix | sort - ours | comm -13 - called)"
}

# ---- on its own ----

test_one_static_file() {
	requires musl-gcc || return 0
	dir=$work
	copy "$work/src"
	make=$(command -v bmake || echo make)
	silent "$make" -s CC=musl-gcc ZSTD=0 CFLAGS="-Os -flto -flto-partition=one \
		-fno-pie -fno-asynchronous-unwind-tables" \
		LDFLAGS="-static -s -no-pie -Wl,--gc-sections -Wl,-z,noseparate-code,-z,norelro" all
	assertTrue "$(size_of qemu-snap) bytes" "[ $(size_of qemu-snap) -le 204800 ]"
	run ./qemu-snap load ../expected/plain.snap
	expect 0 ""
	assertTrue "loads" "cmp out ../expected/plain.snap.load"
}

test_needs_nothing_but_libc() {
	requires ldd || return 0
	dir=$work
	copy "$work/src"
	silent make -s CC="$(quick)" ZSTD=0 qemu-snap
	assertEquals "libc.so" "$(ldd ./qemu-snap | awk '$1 !~ /^linux-(vdso|gate)\.|\/ld/ { print $1 }' |
		sed 's/\.so\..*/.so/')"
}

. "$shunit"
