# What the test scripts share. To be read by them before anything else:
#
#	. "$(dirname "$0")/lib.sh"
#
# Sets TESTS (the tests directory, absolute), TOP (that of the sources), SNAP (the program under
# test), TOOLS. No function here may have a name that begins with "test": shunit2 would not find it,
# but readers would think so.

LC_ALL=C
export LC_ALL
TESTS=$(cd "$(dirname "$0")" && pwd)
TOP=${TESTS%/tests}
SNAP=${SNAP:-$TOP/qemu-snap}
TOOLS=$TESTS/tools
SHUNIT_COLOR=none

# Load the test framework: the last line of every script.
shunit=$(command -v shunit2) || shunit=/usr/share/shunit2/shunit2

# A fresh directory for each test, the working directory in it; so setUp and tearDown, unless a suite has
# others.
enter() {
	dir=$(mktemp -d "${TMPDIR:-/tmp}/qemu-snap-test.XXXXXX") && cd "$dir" || exit 1
}

leave() {
	cd / && [ -n "${dir-}" ] && rm -rf "$dir"
	dir=
	return 0
}

setUp() { enter; }
tearDown() { leave; }

# run CMD...: sets status, and leaves stdout and stderr in the files out and err.
run() {
	"$@" >out 2>err </dev/null
	status=$?
}

# The same with stdin from a file.
run_on() {
	run_on_file=$1
	shift
	"$@" >out 2>err <"$run_on_file"
	status=$?
}

# expect STATUS STDERR: what run must have brought; STDERR byte for byte, with a newline added
# unless it is empty.
expect() {
	assertEquals "exit status" "$1" "$status"
	assertEquals "stderr" "$2" "$(cat err)"
}

# ended STATUS $? WORDS: how the last command ended. For words with a $(...) in them: in front of $?
# it would leave its own status there, in some shells.
ended() {
	assertEquals "$3" "$1" "$2"
}

# mk STREAM [OPTION...]: a stream from the generator into a file.
mk() {
	mk_file=$1
	shift
	"$TOOLS/mkstream" "$@" >"$mk_file" || fail "mkstream $*"
}

# save IMAGE STREAM [OPTION...]: must work without a word.
save() {
	save_image=$1 save_stream=$2
	shift 2
	run_on "$save_stream" "$SNAP" "$@" save "$save_image"
	expect 0 ""
}

# Size of a file in bytes, and of the blocks it takes.
size_of() {
	wc -c <"$1" | tr -d ' '
}

allocated() {
	set -- $(ls -ls "$1")
	echo $(($1 * ${BLOCKSIZE:-1024}))
}

# poke FILE OFFSET BYTE(octal): overwrite one byte.
poke() {
	printf "\\$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

# Pages of a stream (or of the image), one line each, with their last content.
pages_of() {
	python3 "$TOOLS/readstream.py" "$@"
}

# requires CMD: without it, say that the test is skipped.
requires() {
	command -v "$1" >/dev/null 2>&1 || skip "no $1 here"
}

# Of all SKIP lines of a test, the runner may see one.
skip() {
	echo "SKIP $*"
	return 1
}

# Sets nobody, words before a command that is to run without the rights of root.
unprivileged() {
	nobody=
	[ "$(id -u)" = 0 ] || return 0
	command -v setpriv >/dev/null || skip "root may do everything, and there is no setpriv" || return
	nobody='setpriv --reuid 65534 --regid 65534 --clear-groups'
}

# Was the program built with zstd? needs_zstd: else say that the test is skipped.
has_zstd() {
	case $("$SNAP" --compress=zstd save 2>&1 </dev/null) in
	*'without zstd'*) return 1 ;;
	esac
}

needs_zstd() {
	has_zstd || skip "built without zstd"
}

# Sets codecs, the names of those there are, and coded, the option for the last of them.
find_codecs() {
	codecs=none
	! has_zstd || codecs="none zstd"
	coded=--compress=${codecs##* }
}

# holds_stream IMAGE STREAM [OPTION]: both readers find the image good, and the pages and the rest of the
# stream in it; the program by what it loads in precopy.
holds_stream() {
	run "$SNAP" check "$1"
	assertEquals "check $1: $(cat err)" 0 "$status"
	pages_of --rest=rest1 ${3+"$3"} <"$2" >pages1
	"$SNAP" load "$1" >loaded || fail "load $1"
	pages_of --rest=rest2 ${3+"$3"} <loaded >pages2
	assertTrue "$1: pages loaded" "cmp pages1 pages2"
	assertTrue "$1: the rest loaded" "cmp rest1 rest2"
	second_reader "$1"
	assertTrue "$1: pages by the second reader" "cmp pages1 pages3"
	assertTrue "$1: the rest by the second reader" "cmp rest1 rest3"
}

# second_reader IMAGE: it must be good; pages to the file pages3, the rest to rest3. All in one
# process, as its tables take a while to make.
second_reader() {
	python3 - "$TESTS" "$1" >out 2>&1 <<-'END'
		import sys
		sys.dont_write_bytecode = True
		sys.path.insert(0, sys.argv[1])
		import readimg
		image = readimg.Image(sys.argv[2])
		readimg.check(image)
		with open("pages3", "wb") as pages, open("rest3", "wb") as rest:
		    readimg.cmd_list(image, pages)
		    readimg.cmd_rest(image, rest)
	END
	ended 0 $? "second reader on $1: $(tail -n 1 out)"
}

# serve CLIENT-OPTIONS -- SNAP-OPTIONS: a strict destination, tools/rpclient.c, must be
# content.
serve() {
	client=
	while [ "$1" != -- ]; do
		client="$client $1"
		shift
	done
	shift
	"$TOOLS/rpclient" $client "$SNAP" "$@" >out 2>err
	status=$?
	assertEquals "rpclient$client, $*: $(tail -n 1 out) $(cat err)" 0 $status
}

# wait_for SECONDS CMD...: until the command succeeds.
wait_for() {
	wait_left=$(($1 * 10))
	shift
	until "$@"; do
		[ $wait_left -gt 0 ] || return 1
		wait_left=$((wait_left - 1))
		sleep 0.1
	done
}

# ---- suites that build ----

strict="-O2 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion -Werror"

# Of the make that runs us, and of its caller, nothing is to reach the makes of a test.
free_of_make() {
	unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL MAKE CC CFLAGS CPPFLAGS LDFLAGS LDLIBS
	unset PREFIX DESTDIR BINDIR MANDIR ASAN_OPTIONS LSAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS
}

# copy DIR: what belongs to the program and its tools, and go there.
copy() {
	mkdir -p "$1/tests/tools" "$1/completion" &&
		cp "$TOP"/*.c "$TOP"/*.h "$TOP/Makefile" "$TOP/qemu-snap.1" "$1" &&
		cp "$TOP"/completion/*qemu-snap* "$1/completion" &&
		cp "$TOOLS"/*.c "$TOOLS"/*.py "$1/tests/tools" && cd "$1" || fail "copy"
}

# A compiler for tests of which compiling is not the point: the fastest.
quick() {
	command -v tcc 2>/dev/null || echo c99 -O0
}

# silent CMD...: exit 0, not a word.
silent() {
	"$@" >"$dir/said" 2>&1 </dev/null
	assertEquals "$*: exit status" 0 $?
	assertEquals "$*" "" "$(cat "$dir/said")"
}

# works PROGRAM: a first proof that what was built is whole.
works() {
	"$TOOLS/mkstream" >"$dir/s" && "$1" save "$dir/i" <"$dir/s" &&
		"$1" check "$dir/i" >/dev/null && "$1" load "$dir/i" >"$dir/l"
	assertEquals "$1 works" 0 $?
}

# ---- suites with real QEMUs ----

# real_qemus PROGRAM [OPTION...]: how such a suite begins, tests/run knows it by this. PROGRAM of this
# directory is that of its scenarios.
real_qemus() {
	program=$TESTS/$1
	shift
	program_options=$*
	oneTimeSetUp() { find_qemus; }
	oneTimeTearDown() { give_huge_pages_back; }
	setUp() { missing=; }
	tearDown() { tell_missing; }
}

# scenario ARG...: on every QEMU there is. scenario_on QEMUS ARG...: on these.
scenario() {
	scenario_on "$installed $newer" "$@"
}

scenario_on() {
	scenario_qemus=$1
	shift
	on_qemus "$scenario_qemus" "$program" $program_options "$@"
}

# Sets installed and newer, empty if there is none, and work, a directory.
find_qemus() {
	work=$SHUNIT_TMPDIR
	installed=$(command -v qemu-system-x86_64)
	newer=$(sh "$TESTS/get-qemu10" 2>"$work/get") || newer=
	why_no_newer=$(tail -n 1 "$work/get")
}

# At most one notice for a test, however many scenarios it has.
tell_missing() {
	[ -z "${missing-}" ] || echo "SKIP $missing"
	missing=
}

# on_qemus QEMUS COMMAND ARG...: a scenario on each of them; an exit status of 77 means that it
# cannot be run here.
on_qemus() {
	on_qemus_list=$1 on_qemus_command=$2
	shift 2
	for qemu in $on_qemus_list; do
		"$on_qemus_command" --qemu="$qemu" --snap="$SNAP" "$@" >"$work/out" 2>"$work/err"
		code=$?
		cat "$work/out"
		case $code in
		0) ;;
		77) missing=$(tail -n 1 "$work/err") ;;
		*) cat "$work/err" ;;
		esac
		[ $code -eq 77 ] || assertEquals "$qemu $*: exit status" 0 $code
	done
	[ -n "$installed$newer" ] || missing="no QEMU"
}

# Are 160 huge pages of 2 MiB free, or can be had? oneTimeTearDown gives them back.
needs_huge_pages() {
	number=/proc/sys/vm/nr_hugepages
	[ "$(awk '/^Hugepagesize/ { print $2 }' /proc/meminfo)" = 2048 ] ||
		skip "no huge pages of 2 MiB" || return
	free=$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)
	[ "$free" -lt 160 ] || return 0
	before=$(cat $number)
	[ ! -w $number ] || {
		huge_pages_before=$before
		echo $((before - free + 160)) >$number
	} 2>/dev/null
	[ "$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)" -ge 160 ] ||
		skip "cannot reserve huge pages"
}

give_huge_pages_back() {
	[ -z "${huge_pages_before-}" ] || echo "$huge_pages_before" >/proc/sys/vm/nr_hugepages
	huge_pages_before=
}
