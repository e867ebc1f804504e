#!/bin/sh
# Whatever fails, whenever it fails: no hang, no crash, nothing wrong in an image or a stream, one
# message; a save that fails leaves the older image, and its source drained. The program with the
# seam (tools/fault.c) is run with the n-th call failing, n = 1, 2, 3 ... until nothing fails any
# more, once and then from there on. Then the power is cut.
#
# FAULT is the program under test. With LONG=1 no n is left out, and the power is cut more often;
# without, n goes on in longer and longer steps.

. "$(dirname "$0")/lib.sh"

FAULT=${FAULT:-$TOOLS/qemu-snap-fault}
LIMIT=30	# seconds: no run takes as long

setUp() {
	enter
	: >complaints
	SNAP_FAULT='' SNAP_FAULT_COUNT=$dir/count options='' how='' runs=0
	export SNAP_FAULT SNAP_FAULT_COUNT
}
tearDown() {
	unset SNAP_FAULT SNAP_FAULT_COUNT
	leave
}

# An assert for each of some thousand runs would take longer than the runs.
complain() {
	echo "$SNAP_FAULT $options: $*" >>complaints
}

content() {
	assertEquals "$(wc -l <complaints) complaints in $runs runs" "" "$(head -n 12 complaints)"
	[ "${V-}" ] && echo "$runs runs"
	return 0
}

# Sets fired, or complains: then there was no orderly exit.
read_count() {
	fired=0
	if [ -f count ]; then
		read -r _ fired <count
		rm count
	else
		complain "exit status $status: did not exit by itself"
	fi
}

# each OPERATION CALL ERROR: the n-th CALL fails, then all from the n-th on do.
each() {
	for ever in '' +; do
		n=1
		while [ $n -le 500 ]; do
			SNAP_FAULT=$2:$n$ever:$3
			runs=$((runs + 1))
			$1
			[ "$fired" -gt 0 ] || break
			n=$((n + 1 + (${LONG:-0} ? 0 : n / 2)))
		done
		[ "$status" -eq 0 ] || complain "nothing failed, but exit status $status: $(cat err)"
		[ $n -gt 1 ] || complain "there was no such call"
	done
}

# same OPERATION FAULT: this one makes no difference.
same() {
	SNAP_FAULT=$2
	runs=$((runs + 1))
	$1
	[ "$status" -eq 0 ] || complain "exit status $status: $(cat err)"
}

# The messages in err that tell of a cause.
causes() {
	grep -v -e ': removed, a dead save left it$' -e '[:,] UUID [-0-9a-f]*$' \
		-e ': no direct I/O here: ' -e ' pages noted$' err
}

# one_cause: a system call failed: status 1, and one message, with PATTERN in it.
one_cause() {
	[ "$status" -eq 1 ] || complain "exit status $status: $(cat err)"
	[ "$(causes | wc -l)" -eq 1 ] || complain "not one message: $(cat err)"
}

no_cause() {
	[ -z "$(causes)" ] || complain "exit status 0, but $(cat err)"
}

# ---- save ----

# The stream of OPTIONS as two files, ram without the end of what comes behind the RAM; an older
# image, and what the new one has to be, if it is saved with the options in how.
prepare_save() {
	mk s --devices=1 --json=1000 "$@"
	head -c $(($(size_of s) - 10000)) s >ram
	tail -c 10000 s >tail
	mk o --seed=99 --block=a:20
	save old o --reproducible
	save new s --reproducible --cluster-size=64K $how
	run "$SNAP" check old new
	assertEquals "$(cat err)" 0 "$status"
	cp old i
}

op_save() {
	rm -f fed
	{ cat ram && : >fed; cat tail 2>/dev/null; } |
		timeout $LIMIT "$FAULT" $options $how --reproducible --cluster-size=64K save i 2>err
	status=$?
	read_count
	if [ $status -eq 0 ]; then
		no_cause
		cmp -s i new || complain "exit status 0 and a wrong image"
		cp old i
	else
		one_cause
		[ -f fed ] || complain "the source was cut off"
		# Where there are no links, the one failure that comes when the old image has gone.
		if grep -q 'is in place, but its name may be lost' err; then
			case $SNAP_FAULT in
			link:* | open:*) ;;
			*) complain "the older image is gone" ;;
			esac
			cmp -s i new || complain "is in place, but is not"
			cp old i
		fi
		cmp -s i old || complain "the older image is touched"
	fi
	no_part i
}

# no_part IMAGE: no temporary file is left.
no_part() {
	for part in "$1".part.*; do
		[ ! -e "$part" ] || complain "$part is left: $(rm -f "$1".part.*)"
	done
}

test_save() {
	prepare_save --block=a:70 --block=b:3
	each op_save pwrite ENOSPC
	each op_save pwrite none
	each op_save pwrite EIO
	each op_save pwrite EFBIG
	each op_save fsync EIO
	each op_save fsync ENOSPC
	each op_save rename EACCES
	same op_save link:1:EACCES
	for n in 1 2 3 4 5 6; do
		SNAP_FAULT=link:1:EACCES,fsync:$n:EIO
		op_save
	done
	each op_save open EMFILE
	each op_save pthread_create EAGAIN
	each op_save fork EAGAIN
	each op_save pipe EMFILE
	content
}

# Device state full of what looks like the head of a description: some of them are held for, the rest is
# not. Each that is takes a sync.
test_save_of_many_descriptions() {
	mk s
	python3 - <<-'END'
		s = open("s", "rb").read()
		at = s.rindex(b"\6", 0, s.rindex(b'{"'))       # the description
		at = s.rindex(b"\x7e", 0, at)                   # the footer of the last device
		head = bytes.fromhex("7e00000001 00 06 00001000 7b22")
		open("s", "wb").write(s[:at - 8] + head * 100 + s[at - 8:])
	END
	SNAP_FAULT=fsync:40:EIO
	run_on s "$FAULT" save i
	expect 0 ""
	rm -f i
	SNAP_FAULT=fsync:8:EIO
	run_on s "$FAULT" save i
	assertEquals "some are held for" 1 "$status"
}

test_save_without_memory() {
	prepare_save --block=a:70 --block=b:3
	for call in malloc calloc realloc posix_memalign; do
		each op_save $call ENOMEM
	done
	content
}

# Pages that turn zero late leave room in the middle: the last ones are moved there.
test_save_that_moves_pages() {
	prepare_save --kind=ordinary --passes=2 --late-zero=40 --zero=10 --block=a:70
	each op_save pread EIO
	each op_save pwrite ENOSPC
	each op_save ftruncate EIO
	each op_save fsync EIO
	for call in calloc realloc; do
		each op_save $call ENOMEM
	done
	content
}

# What they read back of the image is not taken for what was written.
test_save_that_reads_back_something_else() {
	options=
	for how in --compress=none $(has_zstd && echo --compress=zstd); do
		prepare_save --kind=ordinary --passes=2 --late-zero=40 --zero=10 --block=a:70
		n=1
		while [ $n -le 500 ]; do
			SNAP_FAULT=pread:$n:flip
			op_save
			[ "$fired" -gt 0 ] || break
			cat err >>said
			n=$((n + 1 + n / 4))
		done
		[ "$status" -eq 0 ] || complain "nothing failed, but exit status $status: $(cat err)"
		assertContains "$how" "$(cat said)" \
			"a $([ $how != --compress=none ] && echo unit || echo page) reads back differently from what was written"
		rm said
	done
	content
}

test_save_without_threads_and_with_direct_io() {
	prepare_save --kind=ordinary --passes=2 --late-zero=40 --zero=10 --block=a:70
	options=--aio=threads,0
	each op_save pwrite EIO
	each op_save pread EIO
	options=--cache=none
	each op_save open EMFILE
	each op_save pwrite EIO
	content
}

test_save_with_slow_and_short_calls() {
	for stream in "" "--kind=ordinary --passes=2 --late-zero=40"; do
		prepare_save --zero=10 --block=a:70 $stream
		same op_save pwrite:\*:short,pread:\*:short
		same op_save pwrite:\*:delay:2000,pread:\*:delay:2000,fsync:\*:delay:20000
		same op_save pwrite:\*:short,pwrite:\*:delay:300,malloc:\*:delay:100
		for n in 1 2 3 4 5 6; do
			same op_save pwrite:$n:short
			same op_save pwrite:$n:EINTR,pread:$n:EINTR
			same op_save pwrite:$n:delay:30000
		done
	done
	content
}

test_save_compressed() {
	needs_zstd || return 0
	how=--compress=zstd
	prepare_save --block=a:70 --block=b:3
	each op_save pwrite ENOSPC
	each op_save fsync EIO
	each op_save pthread_create EAGAIN
	for call in malloc calloc realloc posix_memalign; do
		each op_save $call ENOMEM
	done
	same op_save pwrite:\*:short
	same op_save pwrite:\*:delay:2000
	content
}

# Units that close ranks are read, and written to the front.
test_save_compressed_of_pages_that_come_again() {
	needs_zstd || return 0
	how="--compress=zstd --unit-pages=4"
	prepare_save --kind=ordinary --passes=3 --late-zero=40 --zero=10 --block=a:70
	each op_save pread EIO
	each op_save pwrite ENOSPC
	each op_save ftruncate EIO
	for call in malloc calloc realloc; do
		each op_save $call ENOMEM
	done
	same op_save pwrite:\*:short,pread:\*:short
	same op_save pwrite:\*:delay:2000,pread:\*:delay:2000
	options=--aio=threads,0
	each op_save pread EIO
	content
}

# A base that cannot be read costs the image, and neither the guest nor the older one.
test_save_with_a_base() {
	for codec in none zstd; do
		[ $codec = none ] || has_zstd || continue
		mk t --seed=5 --block=a:70 --block=b:3 --devices=1 --json=1000
		save b t --cluster-size=64K --compress=$codec
		how="--base=b --compress=$codec"
		prepare_save --seed=5 --block=a:70 --block=b:3 --change=3:30
		assertTrue "pages in the base" "$SNAP info --json new | grep -q '\"ancestor\": [1-9]'"
		each op_save pread EIO
		each op_save pwrite ENOSPC
		each op_save open EMFILE
		for call in malloc calloc realloc posix_memalign; do
			each op_save $call ENOMEM
		done
		same op_save pread:\*:short
		same op_save pread:\*:delay:2000,pwrite:\*:delay:500
	done
	content
}

test_large_older_image_without_a_process_to_remove_it() {
	prepare_save --block=a:30
	dd if=/dev/zero of=i bs=1 seek=104857600 count=1 2>/dev/null
	SNAP_FAULT=fork:1+:EAGAIN
	run_on s "$FAULT" --reproducible --cluster-size=64K save i
	assertEquals "$(cat err)" 0 "$status"
	assertEquals "fired 1" "$(head -n 1 count)"
	assertTrue "cmp i new"
	assertEquals "i.part.*" "$(echo i.part.*)"
}

# The sync of the directory fails, and then one thing more.
test_save_that_cannot_give_the_name_back() {
	prepare_save --block=a:30
	mk t --seed=7 --devices=1 --json=1000
	save other t --reproducible --cluster-size=64K
	SNAP_FAULT=
	run_on s "$FAULT" --reproducible --cluster-size=64K save i
	last=$(grep -c '^fsynced' count)

	echo "the older image cannot have its name back: it keeps the second one"
	cp old i
	SNAP_FAULT=fsync:$last:EIO,rename:2:EIO
	run_on s "$FAULT" --reproducible --cluster-size=64K save i
	assertEquals 1 "$status"
	kept=$(sed -n 's/^qemu-snap: \(.*\): is the older image now$/\1/p' err)
	assertContains "$kept" i.part.
	assertTrue "cmp '$kept' old"
	assertTrue "cmp i new"
	rm -f "$kept"

	echo "there is no older image: what there is stays"
	rm i
	SNAP_FAULT=fsync:$last:EIO
	run_on s "$FAULT" --reproducible --cluster-size=64K save i
	assertEquals 1 "$status"
	assertContains "$(cat err)" "i: is in place, but its name may be lost with the power: "
	assertTrue "cmp i new"

	echo "another save is done meanwhile: its image stays"
	cp old i
	mkfifo fifo
	"$SNAP" --reproducible --cluster-size=64K save i <fifo 2>err2 &
	second=$!
	exec 9>fifo
	head -c 10000 t >&9
	sleep 0.3
	(SNAP_FAULT=fsync:$last:delay:2000000,fsync:$last:EIO "$FAULT" --reproducible \
		--cluster-size=64K save i <s 2>err; echo $? >status) 9>&- &
	first=$!
	wait_for 5 cmp -s i new
	tail -c +10001 t >&9
	exec 9>&-
	wait $second
	ended 0 $? "the second one: $(cat err2)"
	wait $first
	assertEquals "the first one: $(cat err)" 1 "$(cat status)"
	assertTrue "the second one's image is there" "cmp i other"
	assertEquals "i.part.*" "$(echo i.part.*)"
	assertEquals "" "$(cat err2)"
}

test_what_cannot_be_read_is_not_replaced() {
	prepare_save --block=a:30
	for error in EACCES EIO EMFILE; do
		SNAP_FAULT=open:1:$error
		run_on s "$FAULT" save i
		assertEquals 1 "$status"
		assertContains "$(cat err)" "i: cannot be read, and is not replaced: "
		assertTrue "cmp i old"
	done
}

# A dead save's file that cannot be opened or removed is no reason not to save.
test_save_beside_a_stale_file() {
	prepare_save --block=a:30
	for fault in unlink:1:EACCES unlink:1+:EACCES open:2:EMFILE open:2:EACCES; do
		echo stale >i.part.1-0
		SNAP_FAULT=$fault
		run_on s "$FAULT" --reproducible --cluster-size=64K save i
		assertEquals "$fault: $(cat err)" 0 "$status"
		assertTrue "$fault" "cmp i new"
		assertTrue "$fault: the stale file is there" "[ -e i.part.1-0 ]"
		# The older image's second name could not be removed either, perhaps.
		case $fault in
		unlink:1+:*) ;;
		*) assertEquals "$fault" "i.part.1-0" "$(echo i.part.*)" ;;
		esac
		rm -f i.part.*
	done
}

# ---- load, info, check ----

prepare_load() {
	mk s --devices=1 --json=1000 --block=a:300 --block=b:3
	save i s --cluster-size=64K
	"$SNAP" load i >good
}

# The same for one that is based on another, compressed if that can be.
prepare_based() {
	how=
	! has_zstd || how=--compress=zstd
	mk t --devices=1 --json=1000 --block=a:300 --block=b:3 "$@"
	save b t --cluster-size=64K $how
	mk s --devices=1 --json=1000 --block=a:300 --block=b:3 --change=3:30 "$@"
	save i s --cluster-size=64K $how --base=b
	"$SNAP" load i >good
}

# What came out of a load that failed: something; the beginning of what should, or four bytes that
# are no stream.
a_beginning() {
	[ -s l ] || complain "not a single byte came out"
	if ! head -c "$(size_of l)" good | cmp -s - l; then
		[ "$(od -An -tx1 l)" = " ff ff ff ff" ] || complain "a wrong stream came out"
	fi
}

op_load() {
	{ timeout $LIMIT "$FAULT" $options load i 2>err; echo $? >status; } | cat >l
	read -r status <status
	read_count
	if [ "$status" -eq 0 ]; then
		no_cause
		cmp -s l good || complain "exit status 0 and a wrong stream"
	else
		one_cause
		a_beginning
	fi
}

test_load() {
	prepare_load
	each op_load pread EIO
	each op_load open EMFILE
	each op_load pthread_create EAGAIN
	for call in malloc calloc posix_memalign; do
		each op_load $call ENOMEM
	done
	options=--aio=threads,0
	each op_load pread EIO
	options=--cache=none
	each op_load open EINVAL
	options=
	same op_load pread:\*:short
	same op_load pread:\*:delay:2000
	same op_load pread:1:EINTR,pread:5:EINTR,pread:9:EINTR
	content
}

# The page of the image lies where that of its base does, and both are read in one go.
test_a_read_that_fails_names_its_file() {
	python3 "$TOOLS/pagestream.py" 4096 m:2 0=x41 1=x42 >s
	python3 "$TOOLS/pagestream.py" 4096 m:2 0=x41 1=x43 >t
	save base s
	save i t --base=base
	for n in $(seq 40); do
		SNAP_FAULT=pread:$n:EIO "$FAULT" --aio=threads,0 load i 2>&1 >/dev/null
	done | grep "offset 4096: " | sort >err
	assertEquals "qemu-snap: base: read at offset 4096: Input/output error
qemu-snap: i: read at offset 4096: Input/output error" "$(cat err)"
}

test_load_with_a_base() {
	prepare_based
	each op_load pread EIO
	each op_load open EMFILE
	for call in malloc calloc posix_memalign; do
		each op_load $call ENOMEM
	done
	options=--aio=threads,0
	each op_load pread EIO
	options=
	same op_load pread:\*:short
	same op_load pread:\*:delay:2000
	content
}

# heeding SIGNAL COMMAND...: INT is ignored in what a script leaves in the background, HUP after
# nohup, and no shell can undo that.  The file `heeded` is there when COMMAND begins.
heeding() {
	exec python3 -c 'import os, signal, sys
signal.signal(getattr(signal, "SIG" + sys.argv[1]), signal.SIG_DFL)
open("heeded", "w").close()
os.execv(sys.argv[2], sys.argv[2:])' "$@"
}

# QEMU would wait for the first byte for ever.
test_load_that_is_told_to_end_before_it_begins() {
	prepare_load
	SNAP_FAULT=pread:\*:delay:500000
	for signal in HUP INT TERM; do
		rm -f heeded
		{ heeding $signal "$FAULT" load i 2>err & echo $! >pid; wait $!; echo $? >status; } |
			od -An -tx1 >l &
		job=$!
		wait_for 10 test -f heeded || fail "it did not begin"
		sleep 1
		kill -$signal "$(cat pid)"
		wait $job
		assertEquals "SIG$signal" " ff ff ff ff" "$(cat l)"
		assertTrue "SIG$signal: it dies of it" "[ $(cat status) -gt 128 ]"
	done
}

# out is good, byte for byte, or the program failed and claims nothing.
op_out() {
	timeout $LIMIT "$FAULT" $options i >out 2>err
	status=$?
	read_count
	if [ "$status" -eq 0 ]; then
		no_cause
		cmp -s out good || complain "exit status 0, but $(cat out)"
	else
		one_cause
		[ ! -s out ] || complain "exit status $status, but $(cat out)"
	fi
}

test_check_and_info() {
	prepare_load
	for options in check info "info --json"; do
		"$SNAP" $options i >good
		each op_out pread EIO
		each op_out open EMFILE
		for call in malloc calloc; do
			each op_out $call ENOMEM
		done
		same op_out pread:\*:short
	done
	options=check
	"$SNAP" check i >good
	each op_out posix_memalign ENOMEM
	each op_out pthread_create EAGAIN
	content
}

# Disks are not taken for none because there is no memory to tell of them.
test_info_of_disks() {
	python3 "$TOOLS/pagestream.py" 1024 m:2 0=x41 1=z >s
	save i s --reproducible --unit-pages=2
	python3 "$TOOLS/badimage.py" plain i >kinds
	mv good-disks.bad i
	"$SNAP" info i >good
	assertContains "$(cat good)" "in file (qcow2); the guest went on in next"
	options=info long=${LONG:-0} LONG=1	# one call of few is meant: all of them
	for call in malloc calloc; do
		each op_out $call ENOMEM
	done
	LONG=$long
	content
}

test_check_with_a_base() {
	prepare_based
	options=check
	"$SNAP" check i >good
	each op_out pread EIO
	each op_out open EMFILE
	for call in malloc calloc posix_memalign; do
		each op_out $call ENOMEM
	done
	content
}

# Pages of i are those of b; those of c are read to be compared.
test_diff() {
	prepare_based
	cp b c
	for options in "diff b" "diff --json c" "diff --paranoid c" "diff --paranoid --json c"; do
		"$SNAP" $options i >good
		each op_out pread EIO
		each op_out open EMFILE
		for call in malloc calloc; do
			each op_out $call ENOMEM
		done
	done
	same op_out pread:\*:short
	each op_out posix_memalign ENOMEM
	each op_out pthread_create EAGAIN
	content
}

# ---- optimize ----

op_optimize() {
	timeout $LIMIT "$FAULT" $options --reproducible --cluster-size=64K optimize i n 2>err
	status=$?
	read_count
	if [ $status -eq 0 ]; then
		no_cause
		cmp -s n new || complain "exit status 0 and a wrong image"
		cp old n
	else
		one_cause
		if grep -q 'is in place, but its name may be lost' err; then
			cp old n
		fi
		cmp -s n old || complain "the older image is touched"
	fi
	no_part n
}

test_optimize() {
	prepare_based
	mk o --seed=99 --block=a:20
	save old o
	cp old n
	python3 "$TOOLS/hotlist.py" make i.hot i 200 7 9 1
	for options in --compress=none "$how"; do
		"$SNAP" $options --reproducible --cluster-size=64K optimize i new
		each op_optimize pread EIO
		each op_optimize pwrite ENOSPC
		each op_optimize fsync EIO
		each op_optimize rename EACCES
		for call in malloc calloc realloc posix_memalign; do
			each op_optimize $call ENOMEM
		done
		each op_optimize pthread_create EAGAIN
	done
	content
}

# A hot list that cannot be read is told of; all goes on without it.
test_a_hot_list_that_cannot_be_read() {
	mk s --block=a:300
	save beside s
	python3 "$TOOLS/hotlist.py" make beside.hot beside 200 7 9 1
	"$SNAP" optimize beside within
	while read -r image call error words; do
		: >said
		n=1
		while [ $n -le 40 ]; do
			SNAP_FAULT=$call:$n:$error "$FAULT" optimize $image n 2>err &&
				{ "$SNAP" check n >/dev/null || fail "$call $n"; cat err >>said; }
			n=$((n + 1))
		done
		assertContains "$image: $call" "$(cat said)" "qemu-snap: $words: not used"
	done <<-'END'
		beside malloc ENOMEM beside.hot: out of memory
		beside pread EIO beside.hot: cannot be read
		within malloc ENOMEM within: hot list: out of memory
	END
}

test_optimize_that_is_told_to_end() {
	prepare_load
	SNAP_FAULT=pread:\*:delay:50000
	"$FAULT" --aio=threads,0 optimize i n 2>err &
	job=$!
	sleep 0.5
	kill -TERM $job
	wait $job
	assertEquals "exit status" 1 $?
	assertEquals "qemu-snap: n: signal 15: given up" "$(cat err)"
	assertEquals "left" "n*" "$(echo n*)"
}

# ---- export and import ----

op_export() {
	timeout $LIMIT "$FAULT" --to="$form" export i n 2>err
	status=$?
	read_count
	if [ $status -eq 0 ]; then
		no_cause
		cmp -s n "$form" || complain "$form: exit status 0 and a wrong file"
	else
		one_cause
		case $SNAP_FAULT in
		fsync*) ;;
		*) [ ! -e n ] || complain "$form: in place" ;;
		esac
	fi
	if [ -e n ] && ! cmp -s n "$form"; then
		complain "$form: left"
	fi
	rm -f n
	no_part n
}

test_export() {
	mk s --seed=1 --block=pc.ram:900 --block=b:40
	save i s --cluster-size=64K
	for form in stream mapped-ram raw lime; do
		"$SNAP" export --to=$form i $form
		each op_export pread EIO
		[ $form = stream ] || each op_export pwrite ENOSPC
		each op_export fsync EIO
		each op_export rename EACCES
		each op_export open EACCES
		for call in malloc calloc posix_memalign; do
			each op_export $call ENOMEM
		done
		each op_export pthread_create EAGAIN
	done
	content
}

op_import() {
	timeout $LIMIT "$FAULT" --reproducible --cluster-size=64K import "$form" n 2>err
	status=$?
	read_count
	if [ $status -eq 0 ]; then
		no_cause
		cmp -s n "$form.snap" || complain "exit status 0 and a wrong image"
	else
		one_cause
		grep -q 'is in place, but its name may be lost' err || [ ! -e n ] ||
			complain "left"
	fi
	rm -f n
	no_part n
}

test_import() {
	mk stream --seed=1 --block=pc.ram:900 --block=b:40
	save i stream
	"$SNAP" export --to=mapped-ram i mapped
	for form in stream mapped; do
		"$SNAP" import --reproducible --cluster-size=64K $form $form.snap
		[ $form = stream ] || each op_import pread EIO
		each op_import pwrite ENOSPC
		each op_import fsync EIO
		each op_import rename EACCES
		for call in malloc calloc realloc posix_memalign; do
			each op_import $call ENOMEM
		done
		each op_import pthread_create EAGAIN
	done
	content
}

# ---- postcopy ----

# client OPTION... COMMAND...: a destination, which asks for pages. It does not know beforehand how
# the program will end: if it was content but for the exit status, it is asked again. Where the last
# calls are, depends on when requests come: near them it may well change its mind some times.
client() {
	want_exit=1 tries=0
	while [ $tries -lt 20 ]; do
		tries=$((tries + 1))
		"$TOOLS/rpclient" --seed=2 --requests=30 --burst=3 --repeat --dump --timeout=$LIMIT \
			--expect-exit=$want_exit "$@" >out 2>err
		judged=$?
		status=$(sed -n 's/^pages .* exit //p' out)
		status=${status:-99}
		grep '^rpclient: ' err >judgement
		case $want_exit$judged$(cat judgement) in
		"11rpclient: the command's exit status is 0") want_exit=0 ;;
		"01rpclient: stream offset "*": the command died or closed its output early" | \
			"01rpclient: stream offset "*": refused") want_exit=1 ;;
		*) break ;;
		esac
		rm -f count
	done
	read_count
	[ $judged -eq 0 ] || complain "rpclient: $(cat err)"
	grep -v -e '^pages ' -e ' zero$' out | sort >got
	if [ "$status" -eq 0 ]; then
		no_cause
		cmp -s got want || complain "exit status 0 and wrong pages"
	else
		one_cause
		[ -z "$(comm -23 got want)" ] || complain "a wrong page came out"
	fi
}

op_postcopy() {
	client --before-run "$FAULT" $options load i
}

# The server whose place it takes ends in the middle, without a fault.
op_resume() {
	client --hangup=120 --resume="exec '$FAULT' $options --resume load i" "$SNAP" --postcopy load i
}

prepare_postcopy() {
	mk s --devices=1 --json=1000 --block=a:300 --block=b:3 --shuffle
	save i s --cluster-size=64K
	pages_of <s | grep -v ' zero$' | sort >want
}

test_postcopy() {
	prepare_postcopy
	options=--postcopy
	each op_postcopy pread EIO
	each op_postcopy open EMFILE
	each op_postcopy pipe EMFILE
	each op_postcopy pthread_create EAGAIN
	options=--postcopy=50
	each op_postcopy pread EIO
	options="--postcopy --aio=threads,0"
	each op_postcopy pread EIO
	options=--postcopy
	same op_postcopy pread:\*:short
	same op_postcopy pread:\*:delay:2000
	same op_postcopy pread:3:EINTR,pread:9:EINTR,pread:14:EINTR
	content
}

# Also with a hot list, part of which lies in the base.
test_postcopy_with_a_base() {
	prepare_based --shuffle
	pages_of <s | grep -v ' zero$' | sort >want
	python3 "$TOOLS/hotlist.py" make i.hot i 200 7 9 1 100 101 102 103
	options=--postcopy
	each op_postcopy pread EIO
	each op_postcopy open EMFILE
	for call in malloc calloc posix_memalign; do
		each op_postcopy $call ENOMEM
	done
	each op_resume pread EIO
	same op_postcopy pread:\*:short
	same op_postcopy pread:\*:delay:2000
	content
}

# The old hot list stays until the new one is there as a whole.
op_record() {
	cp old.hot i.hot
	client "$FAULT" $options load i
	if [ "$status" -eq 0 ] || grep 'i.hot: is in place, but its directory' err >>in_place; then
		cmp -s i.hot new.hot || complain "not the new list"
	else
		cmp -s i.hot old.hot || complain "the old list is touched"
	fi
	no_part i.hot
}

test_record() {
	prepare_postcopy
	options='--postcopy --record'
	python3 "$TOOLS/hotlist.py" make old.hot i 1 2 3
	cp old.hot i.hot
	client "$FAULT" $options load i
	mv i.hot new.hot
	assertFalse "a list of its own" "cmp -s old.hot new.hot"
	each op_record pwrite ENOSPC
	each op_record fsync EIO
	assertTrue "the directory is synced" "[ -s in_place ]"
	each op_record rename EACCES
	content
}

test_postcopy_without_memory() {
	prepare_postcopy
	options=--postcopy
	for call in malloc calloc posix_memalign; do
		each op_postcopy $call ENOMEM
	done
	content
}

test_resume() {
	prepare_postcopy
	each op_resume pread EIO
	each op_resume open EMFILE
	each op_resume pipe EMFILE
	each op_resume pthread_create EAGAIN
	options="--aio=threads,0"
	each op_resume pread EIO
	options=
	for call in malloc calloc posix_memalign; do
		each op_resume $call ENOMEM
	done
	same op_resume pread:\*:short
	same op_resume pread:\*:delay:2000
	same op_resume pread:3:EINTR,pread:9:EINTR,pread:14:EINTR
	content
}

# ---- the order of writes ----

# Pages come, come again, and a third time behind so many zero pages that as many clusters as there are
# buffers went by, all without a page: slots freed by the second must not be written by the third while
# the first is still being written.
test_clusters_without_a_page_keep_their_place() {
	python3 - >s <<-'END'
		import struct, sys

		PAGES = 20000
		out = sys.stdout.buffer
		first = True

		def record(page, data):
		    global first
		    head = struct.pack(">Q", page * 4096 | (8 if data else 2) | (0 if first else 0x20))
		    head += b"\x06pc.ram" if first else b""
		    first = False
		    return head + (data or b"\0")

		def pages(version):
		    return b"".join(record(i, struct.pack(">QQ", i, version) * 256) for i in range(32))

		def section(kind, body):
		    return kind + struct.pack(">I", 2) + body + b"\x7e" + struct.pack(">I", 2)

		out.write(b"QEVM" + struct.pack(">I", 3) + b"\x07" + struct.pack(">I", 7) + b"machine")
		out.write(section(b"\1", b"\3ram" + struct.pack(">IIQ", 0, 4, PAGES * 4096 | 4) +
		                  b"\6pc.ram" + struct.pack(">QQ", PAGES * 4096, 16)))
		body = pages(1) + pages(2)
		body += b"".join(record(i, None) for i in range(PAGES - 16384, PAGES)) * 24
		body += pages(3) + struct.pack(">Q", 16)
		out.write(section(b"\2", body))
		out.write(section(b"\3", struct.pack(">Q", 16)))
		out.write(b"\4" + struct.pack(">I", 5) + b"\3dev" + struct.pack(">II", 0, 1) + b"x" * 1000 +
		          b"\x7e" + struct.pack(">I", 5) + b"\0")
	END
	for n in 1 2 3 4; do
		SNAP_FAULT=pwrite:$n:delay:500000 "$FAULT" --cluster-size=64K --aio=threads,2 save i <s 2>err
		ended 0 $? "$(cat err)"
		assertEquals "write $n was slow" "" "$("$SNAP" check i 2>&1 >/dev/null)"
	done
}

# ---- the power cut ----

# cuts RUNS STREAM-OPTIONS [-- OPTION...]: no third outcome.
cuts() {
	cuts_runs=$1 cuts_stream=$2
	shift 2
	mk s $cuts_stream
	run python3 "$TOOLS/powercut.py" --runs="$cuts_runs" --seed="$cuts_runs" "$FAULT" s old \
		--reproducible --cluster-size=64K "$@"
	assertEquals "$cuts_stream: $(cat out err)" 0 "$status"
	[ "${V-}" ] && cat out
	return 0
}

test_power_cuts() {
	mk o --seed=99 --block=a:20 --json=1000
	save old o
	cuts ${LONG:+11}90 "--block=a:40 --block=b:3 --json=70000 --devices=2"
	cuts ${LONG:+10}80 "--kind=ordinary --passes=2 --late-zero=40 --zero=0 --block=a:60 --json=1000"
	has_zstd && cuts ${LONG:+3}30 \
		"--kind=ordinary --passes=3 --late-zero=40 --zero=0 --block=a:60 --json=1000" \
		--compress=zstd --unit-pages=4
	mk t --block=a:40 --json=1000
	save b t
	cuts ${LONG:+3}30 "--block=a:40 --change=3:50 --json=1000" --base="$dir/b"
	cuts ${LONG:+3}30 "--block=a:20 --json=0 --devices=1" --cache=none --aio=threads,1
}

. "$shunit"
