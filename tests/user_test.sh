#!/bin/sh
# Every verb as somebody new would try it, or in a hurry: what is said, byte for byte, and with
# which exit status. Command lines that are wrong in themselves are in cli_test.sh.

. "$(dirname "$0")/lib.sh"

setUp() {
	enter
	mk s --seed=1 --block=pc.ram:300
	save i s
}

# gives STATUS MESSAGE ARG...: so ends the program, with nothing on stdout and nothing left but
# what was there; MESSAGE "" is none.
gives() {
	want=$1 message=$2
	shift 2
	ls -A >before
	run "$SNAP" "$@"
	assertEquals "$*: exit status" "$want" "$status"
	assertEquals "$*" "${message:+qemu-snap: $message}" "$(cat err)"
	assertEquals "$*: stdout" "" "$(cat out)"
	ls -A >after
	assertEquals "$*: files" "" "$(comm -3 before after | grep -v -w -e err -e out -e after)"
	rm -f before after
}

# on_file STATUS MESSAGE FILE: all verbs that read an image.
on_file() {
	gives "$1" "$2" check "$3"
	gives "$1" "$2" diff i "$3"
	gives "$1" "$2" diff "$3" i
	gives "$1" "$2" optimize "$3" new
	for form in stream mapped-ram raw lime; do
		gives "$1" "$2" export --to=$form "$3" new
	done
	gives "$1" "$2" load "$3"
	gives "$1" "$2" --postcopy load "$3"
	[ "$3" = cut ] || gives "$1" "$2" info "$3"
}

test_without_arguments() {
	gives 1 "no verb; --help tells them"
	for verb in save load info check diff optimize; do
		gives 1 "$verb: the name of the image is missing" $verb
	done
	gives 1 "diff: the name of the second image is missing" diff i
	gives 1 "optimize: the name of the new image is missing" optimize i
	gives 1 "export: --to=stream, mapped-ram, raw or lime is missing" export
	gives 1 "export: --to=stream, mapped-ram, raw or lime is missing" export i new
	gives 1 "export: the name of the image is missing" export --to=raw
	gives 1 "export: the name of the file to be written is missing" export --to=raw i
	gives 1 "import: the name of the file is missing" import
	gives 1 "import: the name of the new image is missing" import s
}

test_files_that_are_none() {
	mkdir d
	mkfifo f
	on_file 1 "missing: No such file or directory" missing
	on_file 1 "d: Is a directory" d
	on_file 1 "f: not a regular file" f
	on_file 1 "/dev/null: not a regular file" /dev/null
	gives 1 "missing: No such file or directory" import missing new
	gives 1 "d: Is a directory" import d new
	gives 1 "f: not a regular file" import f new
	gives 1 "/dev/zero: not a regular file" import /dev/zero new
}

test_files_of_another_kind() {
	echo hello >text
	head -c 10000 /dev/zero | tr '\0' x >other
	: >empty
	head -c 100000 i >cut
	gzip -c s >s.gz
	on_file 2 "text: too short for a qemu-snap image" text
	on_file 2 "other: offset 0: not a qemu-snap image" other
	on_file 2 "empty: not a qemu-snap image: an empty file" empty
	on_file 2 "s: not a qemu-snap image: a QEMU migration stream as it is" s
	on_file 2 "s.gz: not a qemu-snap image: a file compressed with gzip" s.gz
	on_file 2 "cut: offset 95904: no footer: an interrupted save or a cut copy" cut
	gives 2 "text: not a migration stream" import text new
	gives 2 "empty: not a migration stream: an empty file" import empty new
	gives 2 "s.gz: not a migration stream: a file compressed with gzip" import s.gz new
	gives 2 "i: not a migration stream: a qemu-snap image" import i new
}

test_places_that_cannot_be_written() {
	mkdir d
	mkfifo f
	echo precious >text
	for words in "optimize i" "import s"; do
		{
			gives 1 "d: is there and is not a regular file" $words d
			gives 1 "f: is there and is not a regular file" $words f
			gives 1 "/dev/null: is there and is not a regular file" $words /dev/null
			gives 1 "none/new: cannot be created: No such file or directory" $words none/new
			gives 1 "text: is there and is not a qemu-snap image: not replaced" $words text
		}
	done
	for form in stream mapped-ram raw lime; do
		gives 1 "d: is there and is not replaced" export --to=$form i d
		gives 1 "f: is there and is not replaced" export --to=$form i f
		gives 1 "/dev/null: is there and is not replaced" export --to=$form i /dev/null
		gives 1 "none/new: cannot be created: No such file or directory" export --to=$form i none/new
		gives 1 "text: is there and is not replaced" export --to=$form i text
	done
	assertEquals "precious" "$(cat text)"
	for name in d f /dev/null none/new text; do
		run_on s "$SNAP" save $name
		assertEquals "save $name" 1 "$status"
		case $name in
		none/*) why="cannot be created: No such file or directory" ;;
		text) why="is there and is not a qemu-snap image: not replaced" ;;
		*) why="is there and is not a regular file" ;;
		esac
		assertEquals "qemu-snap: $name: $why" "$(cat err)"
	done
}

test_without_permission() {
	unprivileged || return 0
	SNAP_AS_IT_IS=$SNAP
	cp "$SNAP" snap && cp i secret && cp s secret.stream && cp i new
	chmod 755 . snap && chmod 644 i s && chmod 000 secret secret.stream && chmod 555 .
	SNAP="$nobody ./snap"
	as_nobody() {
		want=$1 message=$2
		shift 2
		said=$($SNAP "$@" 2>&1 >/dev/null </dev/null)
		assertEquals "$*: exit status" "$want" $?
		assertEquals "$*" "qemu-snap: $message" "$said"
	}
	for words in info check "diff i" --postcopy\ load load; do
		as_nobody 1 "secret: Permission denied" $words secret
	done
	as_nobody 1 "secret: Permission denied" optimize secret other
	as_nobody 1 "secret: Permission denied" export --to=raw secret other
	as_nobody 1 "secret.stream: Permission denied" import secret.stream other
	as_nobody 1 "other: cannot be created: Permission denied" optimize i other
	as_nobody 1 "other: cannot be created: Permission denied" export --to=raw i other
	as_nobody 1 "other: cannot be created: Permission denied" import s other
	chmod 755 .
	SNAP=$SNAP_AS_IT_IS
}

test_a_stdout_that_cannot_be_written() {
	for words in "info i" "info --json i" "check i" "diff i i" "diff --json i i" -V --help; do
		"$SNAP" $words 2>err >&- </dev/null
		assertEquals "$words" 1 $?
		assertEquals "$words" "qemu-snap: stdout: cannot be written" "$(cat err)"
		[ -w /dev/full ] || continue
		"$SNAP" $words 2>err >/dev/full </dev/null
		assertEquals "$words" 1 $?
		assertEquals "$words" "qemu-snap: stdout: cannot be written" "$(cat err)"
	done
	"$SNAP" load i 2>err >&- </dev/null
	assertEquals 1 $?
	assertEquals "qemu-snap: writing the stream: Bad file descriptor" "$(cat err)"
	"$SNAP" save new 2>err <&-
	assertEquals 1 $?
	assertEquals "qemu-snap: stream offset 0: read: Bad file descriptor" "$(cat err)"
	assertFalse "[ -e new ]"
}

# A disk is full where a file may grow no further; cli and fault tests have all the others.
test_a_full_disk() {
	mk big --block=pc.ram:3000 --zero=0
	save BIG big
	limited() {
		want=$1
		shift
		run sh -c 'ulimit -f 2000; exec "$@"' x "$SNAP" "$@"
		assertEquals "$*" 1 "$status"
		assertEquals "$*: $(cat err)" "$want" "$(sed 's/offset [0-9]*/offset N/' err)"
		assertEquals "$*: left" "" "$(ls -A | grep -e new)"
	}
	limited "qemu-snap: new: write at offset N: File too large" optimize BIG new
	limited "qemu-snap: new: write at offset N: File too large" import big new
	limited "qemu-snap: new: write at offset N: File too large" export --to=raw BIG new
	limited "qemu-snap: new: write at offset N: File too large" export --to=lime BIG new
	limited "qemu-snap: new: write: File too large" export --to=mapped-ram BIG new
	limited "qemu-snap: new: write: File too large" export --to=stream BIG new
}

test_names_with_odd_characters() {
	odd=$(printf 'a b\n"c"\\\001\377.snap')
	cp i "$odd"
	run "$SNAP" info "$odd"
	expect 0 ""
	assertEquals "image          a b?\"c\"\\?$(printf '\377').snap" "$(head -n 1 out)"
	run "$SNAP" info --json "$odd"
	expect 0 ""
	assertTrue "JSON" "python3 -m json.tool <out >/dev/null"
	run "$SNAP" check "$odd"
	expect 0 ""
	assertEquals "a b?\"c\"\\?$(printf '\377').snap: good, 241 pages stored" "$(cat out)"
	run "$SNAP" diff --json "$odd" i
	expect 0 ""
	assertTrue "JSON" "python3 -m json.tool <out >/dev/null"
	for to in raw stream lime mapped-ram; do
		run "$SNAP" export --to=$to "$odd" "$odd.$to"
		expect 0 ""
	done
	run "$SNAP" import --reproducible "$odd.stream" "$odd.2"
	expect 0 ""
	run "$SNAP" optimize --reproducible "$odd" "$odd.3"
	expect 0 ""
	rm "$odd"
	run "$SNAP" check "$odd"
	expect 1 "qemu-snap: a b?\"c\"\\?$(printf '\377').snap: No such file or directory"
}

. "$shunit"
