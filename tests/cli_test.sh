#!/bin/sh
# The command line: what is taken, what is refused, with which words and which exit status; and
# that whoever started us by mistake is served all the same (a source is drained, a destination told).

. "$(dirname "$0")/lib.sh"

# refused MESSAGE ARG...: exit 1, nothing on stdout.
refused() {
	message=$1
	shift
	run "$SNAP" "$@"
	expect 1 "qemu-snap: $message"
	assertEquals "stdout" "" "$(cat out)"
}

test_wrong_words() {
	refused "no verb; --help tells them"
	refused "frob: no such verb; it comes before the image, and --help tells them" frob x
	refused "save: the name of the image is missing" save
	refused "load: one argument too many: y" load x y
	refused "--bogus: no such option" --bogus save x
	refused "-x: no such option" -x save x
	refused "-s: its value is missing" save x -s
	refused "--image-size: its value is missing" save x --image-size
	refused "--image-size=12Q: not a size" --image-size=12Q save x
	refused "--image-size=: not a size" --image-size= save x
	refused "--image-size=99999999999999999999: not a size" -s 99999999999999999999 save x
	refused "--image-size=9999999T: not a size" -s 9999999T save x
	refused "--cache=fast: not writeback, none, writethrough, directsync or unsafe" --cache=fast save x
	refused "--aio=threads,65: not threads, threads,N (0 to 64), native or io_uring" --aio=threads,65 save x
	refused "--page-size=1000: not a power of two from 1024 to 65536" -S 1000 save x
	refused "--postcopy=101: not a percentage from 0 to 100" --postcopy=101 load x
	refused "load: 200 is taken for an image: say -p N or --postcopy=N, N from 0 to 100" load -p 200 x
	refused "load: 60 is taken for an image: say -p N or --postcopy=N, N from 0 to 100" \
		load --postcopy 60 x
	refused "--postcopy=: not a percentage from 0 to 100" --postcopy= load x
	refused "--image-size=0: not a size" -s 0 save x
	refused "--uuid=12: not a UUID" --uuid=12 load x
	refused "--resume: not for save" --resume save x
	refused "--rate: only with --postcopy or --resume" --rate=1M load x
	refused "--trace: not for info" -t info x
	refused "--rate=0: not a number of bytes a second" --rate=0 load x
	refused "--json=1: takes no value" info --json=1 x
	refused "--postcopy: not for save" --postcopy save x
	refused "--image-size: not for load" -s 1M load x
	refused "--compress=lzo: not none or zstd, zstd:LEVEL" --compress=lzo save x
	for level in 0 20 ''; do
		why="not a level from 1 to 19"
		has_zstd || why="this qemu-snap was built without zstd"
		refused "--compress=zstd:$level: $why" --compress=zstd:$level save x
	done
	refused "--compress: not for load" --compress=none load x
	refused "y: No such file or directory" --base=y save x
	refused "--base: not for info" --base=y info x
	refused "--record: only with --postcopy, from the first page on" --record load x
	refused "--record: only with --postcopy, from the first page on" --record -p --resume load x
	refused "--record: only with --postcopy, from the first page on" --record -p 5 load x
	refused "--no-hot: not for save" --no-hot save x
	refused "--no-hot: only with --postcopy" --no-hot load x
	refused "--base=: not a name" --base= save x
	refused "--record=: not a name" -p --record= load x
	refused "optimize: the name of the image is missing" optimize
	refused "optimize: the name of the new image is missing" optimize x
	refused "optimize: one argument too many: z" optimize x y z
	refused "--host-page-size: only with --postcopy or --resume" --host-page-size=2M load x
	refused "--host-page-size: not for save" --host-page-size=2M save x
	for size in "" 0 3M 4G a= =; do
		refused "--host-page-size=$size: not SIZE or BLOCK=SIZE, a power of two from 1K to 1G" \
			-p "--host-page-size=$size" load x
	done
	for i in $(seq 65); do
		set -- "$@" "--host-page-size=$i=2M"
	done
	refused "--host-page-size=65=2M: more of them than a guest has such blocks" "$@" -p load x
	refused "--label: not for load" --label=a load x
	refused "--label: longer than 4096 bytes" --label="$(printf %04097d 0)" save x
	refused "--quick: not for info" --quick info x
	assertEquals "files left" "err
out" "$(ls -A)"
}

test_help_and_version() {
	run "$SNAP" -V
	expect 0 ""
	assertEquals "$(sed -n 's/.*SNAP_VERSION.*"\(.*\)"/qemu-snap \1/p' "$TOP/snap.h")" "$(sed -n 1p out)"
	assertEquals "compression: $(has_zstd && echo zstd || echo none)" "$(sed -n 2p out)"
	run "$SNAP" --help
	expect 0 ""
	assertTrue "fits one screen" "[ $(wc -l <out) -le 40 ]"
	assertTrue "fits 80 columns" "[ -z \"\$(grep -E '.{80}' out)\" ]"
	if [ -w /dev/full ]; then
		"$SNAP" -h >/dev/full 2>err
		assertEquals 1 $?
		assertEquals "qemu-snap: stdout: cannot be written" "$(cat err)"
	fi
}

# The command lines of the earlier tool, as they are.
test_command_lines_of_the_earlier_tool() {
	mk s --seed=1
	run_on s "$SNAP" -s 2G --cache=writeback --aio=threads save IMG
	expect 0 ""
	"$SNAP" --cache=none --aio=native load IMG >l 2>err
	assertEquals 0 $?
	pages_of <s >p1
	pages_of <l >p2
	assertTrue "same pages" "cmp p1 p2"
	"$TOOLS/rpclient" --requests=5 "$SNAP" --postcopy=60 --cache=none --aio=native load IMG >out 2>err
	ended 0 $? "$(cat out err)"
	"$TOOLS/rpclient" --requests=5 "$SNAP" -p 60 load IMG >out 2>err
	ended 0 $? "$(cat out err)"
}

test_options_anywhere_and_a_file_with_a_dash() {
	mk s --seed=1
	run_on s "$SNAP" save --cache writethrough -s 1G -- -x
	expect 0 ""
	run "$SNAP" info --json -- -x
	expect 0 ""
	run "$SNAP" check ./-x -n
	assertEquals "$(cat err)" 0 "$status"
	assertContains "$(cat out)" "./-x: good"
}

# A source must never meet a closed pipe before its RAM is through (F6): all is read.
drained() {
	(head -c 3000000 /dev/zero && echo through >fed) | "$SNAP" "$@" >out 2>err
	assertEquals "$*" "through" "$(cat fed 2>/dev/null)"
	rm -f fed
}

test_a_source_is_drained() {
	mkdir d
	drained --bogus save x
	drained save
	drained save x y
	drained frobnicate x
	drained --postcopy save x
	drained save d
	drained save missing/x
	drained save x
	drained -h save x
	drained -V save x
	drained --compress=zstd save x
	drained
}

# A destination spins for ever if no byte comes (F12).
told() {
	"$SNAP" "$@" 2>err </dev/null | od -An -tx1 >bytes
	assertEquals "$*" " ff ff ff ff" "$(cat bytes)"
	assertTrue "a message" "[ -s err ]"
}

# What still parses is read to the end of the RAM exactly, and left there: so QEMU says `failed`.
test_a_source_is_left_behind_its_ram() {
	mk s --block=a:2000 --json=1000000
	for words in "--bogus save x" "frobnicate x" "" "save"; do
		(cat s && echo through >fed) 2>/dev/null | "$SNAP" $words >out 2>err
		assertEquals "$words" 1 $?
		assertFalse "$words: completed" "[ -e fed ]"
		assertEquals "$words: one message" 1 "$(wc -l <err)"
	done
}

test_a_destination_is_told() {
	mkdir d
	echo hello >hello
	told load missing
	told load d
	told load hello
	told --bogus load x
	told load
	told --image-size=1 load x
	told --postcopy load missing
}

# QEMU up to 8.1 crashes if a recovery fails before RESUME: it comes first, whatever else is wrong.
test_a_paused_destination_is_told() {
	for words in "--resume load missing" "load --resume missing" "--bogus --resume load x" \
	    "--resume load"; do
		"$SNAP" $words 2>err </dev/null | od -An -tx1 >bytes
		assertEquals "$words" " 08 00 09 00 00 ff ff ff ff" "$(cat bytes)"
	done
}

test_load_writes_no_stream_into_a_file_that_waits_for_none() {
	"$SNAP" load missing >file 2>err
	assertEquals 1 $?
	assertEquals "qemu-snap: missing: No such file or directory" "$(cat err)"
	assertFalse "nothing in the file" "[ -s file ]"
}

# A stream neither comes from a terminal nor goes to one.
test_terminals() {
	"$TOOLS/mkstream" | "$SNAP" save i
	python3 "$TOOLS/terminal.py" --stdout raw "$SNAP" load i >screen
	assertEquals 1 $?
	assertEquals "qemu-snap: load: the stream goes to stdout, which is a terminal" "$(cat screen)"
	python3 "$TOOLS/terminal.py" raw sh -c 'exec "$0" save j <&2' "$SNAP" >screen
	assertEquals 1 $?
	assertEquals "qemu-snap: save: the stream comes on stdin, which is a terminal" "$(cat screen)"
	assertEquals "i raw screen" "$(echo *)"
}

. "$shunit"
