#!/bin/sh
# take, revert and status against a QEMU of our own making, tools/qmpserver.py: all that may come over
# its monitor, and all that may go wrong there. Each time: exit status, one message, what QEMU was told,
# its settings as before, no file and no process left.

. "$(dirname "$0")/lib.sh"

FAULT=${FAULT:-$TOOLS/qemu-snap-fault}

setUp() {
	enter
	mk s
	server=
}

tearDown() {
	[ -z "$server" ] || kill "$server" 2>/dev/null
	[ -z "$server" ] || wait "$server"
	server=
	leave
}

# serve OPTION...: the server, and the files that are there before the program runs.
serve() {
	[ -z "$server" ] || wait "$server"
	rm -rf q log log.held log.go i
	python3 "$TOOLS/qmpserver.py" q log --stream=s "$@" 2>server &
	server=$!
	wait_for 20 test -S q || fail "no server: $(cat server)"
	files
	mv files before
}

files() {
	find . ! -name log\* ! -name out ! -name err ! -name before ! -name files ! -name told | sort >files
}

# start CMD...: in the background, as $asked; with SIGINT, which the shell ignores there, and SIGHUP,
# which nohup does.
start() {
	QMP_TEST=$dir python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])' "$@" >out 2>err </dev/null &
	asked=$!
}

# finish: until that is over, and the server; sets status.
finish() {
	wait "$asked"
	status=$?
	wait_for 10 nobody_left
	assertTrue "processes left" nobody_left
	wait "$server"
	server=
	assertEquals "the server's own trouble" "" "$(cat server)"
}

# No process that the program started.
nobody_left() {
	! grep -las "QMP_TEST=$dir" /proc/[0-9]*/environ >/dev/null
}

ask() {
	start "$@"
	finish
}

# is STATUS TEXT: that status and one message, with TEXT in it; no file that was not there before.
is() {
	assertEquals "exit status; $(cat err)" "$1" "$status"
	assertEquals "messages: $(cat err)" 1 "$(grep -c '' err)"
	assertContains "$(cat err)" "$2"
	files
	assertEquals "files" "$(cat before)" "$(cat files)"
}

# ends STATUS-OF-GUEST [CAPABILITIES]: QEMU as it was, with no descriptor of ours.
ends() {
	assertEquals "QEMU at last" "end 134217728 ${2-none} $1 none" "$(tail -n 1 log)"
}

told() { assertContains "QEMU was told" "$(cat log)" "$1"; }
not_told() { assertNotContains "QEMU was told" "$(cat log)" "$1"; }

# taken: an image, without a word.
taken() {
	expect 0 ""
	run "$SNAP" check i
	assertEquals "check: $(cat err)" 0 "$status"
}

OFF='migrate-set-capabilities {"capabilities": [{"capability": "background-snapshot", "state": false}]}'
ON='migrate-set-capabilities {"capabilities": [{"capability": "background-snapshot", "state": true}]}'

test_commands_of_a_take() {
	serve
	ask "$SNAP" take q i
	taken
	ends running
	grep -v query- log >told
	cat >wanted <<-END
		qmp_capabilities
		$ON
		migrate-set-parameters {"max-bandwidth": 1099511627776}
		getfd {"fdname": "qemu-snap"}
		migrate {"uri": "fd:qemu-snap"}
		$OFF
		migrate-set-parameters {"max-bandwidth": 134217728}
		end 134217728 none running none
	END
	assertEquals "$(cat wanted)" "$(cat told)"
	holds_stream i s
}

test_replies_that_come_in_pieces_or_joined() {
	for how in --pieces --events --wrong-ids "--pieces --events --wrong-ids"; do
		serve $how
		ask "$SNAP" take q i
		taken
		ends running
	done
	serve --events --wrong-ids
	ask "$SNAP" status q
	expect 0 ""
	assertContains "$(cat out)" "guest          running"
	assertContains "$(cat out)" "bandwidth      128.0 MiB"
}

# The greeting and each command of a take: the socket is closed, in place of the reply or in it.
test_sockets_closed_at_every_step() {
	for at in greeting qmp_capabilities query-status query-migrate query-migrate-capabilities \
		query-migrate-parameters migrate-set-capabilities migrate-set-parameters getfd migrate; do
		serve --close=$at
		ask "$SNAP" take q i
		is 1 "q: QEMU has closed its monitor"
	done
	for at in greeting query-migrate-capabilities getfd; do
		serve --half=$at
		ask "$SNAP" take q i
		is 1 "q: QEMU has closed its monitor"
	done
	for at in query-status x-query-ramblock migrate-incoming; do
		"$SNAP" save i <s
		mv i j
		serve --close=$at --status=inmigrate
		ask "$SNAP" revert --postcopy q j
		is 1 "q: QEMU has closed its monitor"
	done
}

test_what_is_not_qmp() {
	for what in garbage nul deep empty array; do
		serve --say=query-status:$what
		ask "$SNAP" take q i
		is 1 "q: what comes is not QMP"
		not_told migrate-set
	done
	for what in garbage array; do
		serve --say=greeting:$what
		ask "$SNAP" status q
		is 1 "q: no QMP socket"
	done
}

test_an_endless_line_takes_bounded_memory() {
	for at in greeting query-block; do
		serve --say=$at:endless
		ask python3 "$TOOLS/peak.py" log.peak "$SNAP" take --disks q i
		is 1 "q: a message longer than any that QEMU sends"
		[ "${SANITIZED-}" ] || assertTrue "$(cat log.peak) KiB" "[ $(cat log.peak) -lt 20000 ]"
	done
}

test_sockets_that_are_none() {
	serve --say=greeting:hmp
	ask "$SNAP" take q i
	is 1 "q: a monitor for people (HMP)"
	run "$SNAP" take nobody i
	expect 1 "qemu-snap: nobody: No such file or directory"
	echo >file
	run "$SNAP" take file i
	expect 1 "qemu-snap: file: not a socket; QEMU's comes first, then the image"
	run "$SNAP" status "$(printf %0200d 0)"
	expect 1 "qemu-snap: $(printf %0200d 0): too long for the name of a socket"
	python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("deaf")'
	run "$SNAP" revert deaf i
	expect 1 "qemu-snap: deaf: no QEMU listens there any more"
}

# QEMU serves one client at a time.
test_a_socket_that_somebody_else_has() {
	serve --say=greeting:silence
	ask "$SNAP" take q i
	is 1 "q: no greeting: somebody else has this monitor, or it is no QMP socket"
	# Who does not want to wait for it is not told of one.
	serve --say=greeting:silence
	start "$SNAP" take q i
	wait_for 20 has_socket || fail "not connected"
	kill -s INT "$asked"
	finish
	is 1 "q: given up"
}

# Nor does it keep more than one waiting; the next one's connect() would take for ever.
test_a_socket_with_too_many_before() {
	python3 -c 'import signal, socket
s = [socket.socket(socket.AF_UNIX) for _ in range(9)]
s[0].bind("q")
s[0].listen(0)
for c in s[1:]:
    c.setblocking(False)
    try:
        c.connect("q")
    except OSError:
        break
print(flush=True)
signal.pause()' >ready &
	server=$!
	wait_for 20 test -s ready
	for verb in take revert; do
		run "$SNAP" $verb q i
		case $(uname) in	# elsewhere it is refused
		Linux) expect 1 "qemu-snap: q: no greeting: somebody else has this monitor, or it is no QMP socket" ;;
		*) assertEquals 1 "$status" ;;
		esac
	done
	if [ "$(uname)" = Linux ]; then
		start "$SNAP" status q
		wait_for 20 has_socket || fail "no socket"
		kill -s INT "$asked"
		wait "$asked"
		ended 130 $? "$(cat err)"
	fi
	kill "$server"
	wait "$server" 2>/dev/null
	server=
}

has_socket() {
	find "/proc/$asked/fd" -lname 'socket:*' | grep -q .
}

test_guests_that_cannot_be_taken() {
	serve --status=inmigrate
	ask "$SNAP" take q i
	is 1 "q: this QEMU waits for a guest"
	not_told migrate-set
	serve --status=internal-error
	ask "$SNAP" take q i
	is 1 "q: the guest is neither running nor paused, but internal-error"
	# 7.2 and 10.0 abort in the one case, and in the other refuse the migration.
	for state in prelaunch postmigrate; do
		serve --status=$state
		ask "$SNAP" take q i
		is 1 "q: the guest is neither running nor paused, but $state: let it run first (cont)"
	done
	for state in active setup postcopy-paused; do
		serve --migration=$state
		ask "$SNAP" take q i
		is 1 "q: a migration is under way: $state"
		not_told migrate-set
	done
	serve --without=background-snapshot
	ask "$SNAP" take q i
	is 1 "q: this QEMU has no background snapshots"
	not_told migrate-set
	serve --without=background-snapshot
	ask "$SNAP" take --stop q i
	assertEquals "$(cat err)" 0 "$status"
	not_told '"capability"'
	ends running
}

test_commands_that_are_refused() {
	for at in query-status query-migrate-parameters migrate-set-capabilities \
		migrate-set-parameters getfd migrate stop; do
		serve "--refuse=$at:Nobody may"
		case $at in
		stop) ask "$SNAP" take --stop q i ;;
		*) ask "$SNAP" take q i ;;
		esac
		is 1 "QEMU says: Nobody may"
		ends running
	done
	serve "--refuse=qmp_capabilities:Not today"
	ask "$SNAP" take q i
	is 1 "q: qmp_capabilities: QEMU says: Not today"
}

# Where the image cannot be, QEMU hears of nothing.
test_images_that_cannot_be() {
	serve
	ask "$SNAP" take q nowhere/i
	is 1 "nowhere/i"
	not_told migrate-set
	mkdir d
	serve
	ask "$SNAP" take q d
	is 1 "d: "
	not_told migrate-set
}

test_a_migration_that_fails() {
	echo older >older
	serve --hold=500000 "--fail=Guest has a disease"
	: >log.go
	ask "$SNAP" take q i
	is 1 "q: QEMU says: Guest has a disease"
	ends running
	serve --hold=500000 --fail=
	: >log.go
	ask "$SNAP" take q i
	is 1 "q: QEMU gives no reason; the migration is failed"
	ends running
	# All is there, but QEMU says no.
	serve "--hold=$(size_of s)" "--fail=At the last moment"
	: >log.go
	ask "$SNAP" take q i
	assertEquals 1 "$status"
	assertContains "$(cat err)" "q: QEMU says: At the last moment"
	assertEquals 1 "$(grep -c '' err)"
}

test_streams_that_are_refused() {
	"$TOOLS/mkstream" --bad=xbzrle >s
	serve
	ask "$SNAP" take q i
	is 2 "stream offset"
	ends running
	"$TOOLS/mkstream" --bad=magic >s
	serve
	ask "$SNAP" take q i
	is 2 "stream offset"
	ends running
}

test_a_full_disk() {
	serve
	ask "$SNAP" take --image-size=200K q i
	is 1 "i: image would grow past the --image-size"
	ends running
	# What is left of the memory is not waited for, where the guest bears that.
	for words in "8.1 " "10.0 " "6.0 --stop" "8.0 --stop" "10.0 --stop"; do
		serve "--version=${words%% *}" --hold=500000
		ask "$SNAP" take ${words#* } --image-size=200K q i
		is 1 "i: image would grow past the --image-size"
		told migrate_cancel
		ends running
	done
	serve --version=8.0
	ask "$SNAP" take --image-size=200K q i
	not_told migrate_cancel
	ends running
}

# Where it would hang the guest, or bring what cannot be stored, an ordinary migration is not begun.
test_settings_that_do_not_go_with_stop() {
	for setting in postcopy-ram return-path pause-before-switchover multifd mapped-ram compress; do
		serve --on=$setting --knows=$setting
		ask "$SNAP" take --stop q i
		is 1 "q: this QEMU has $setting on: switch it off to save"
		not_told stop
		not_told getfd
	done
}

# Our own output gets nothing of the stream's.
test_a_source_that_asks() {
	mk s --return-path --kind=ordinary
	serve
	"$SNAP" take --stop q i </dev/null 2>err | cat >out
	assertEquals "bytes on stdout" 0 "$(size_of out)"
	assertContains "$(cat err)" "i: the guest stood still for "
	run "$SNAP" check i
	assertEquals "$(cat err)" 0 "$status"
}

# Programs are not told of an image, or a load, that there is not.
test_what_status_fd_says_of_what_is_refused() {
	for verb in take revert; do
		[ $verb = take ] && serve --refuse=migrate:No || waiting --refuse=migrate-incoming:No
		image=$([ $verb = take ] && echo i || echo j)
		ask "$SNAP" --status-fd=2 $verb q $image
		assertEquals 1 "$status"
		assertContains "$(tail -n 2 err)" '"outcome": "failed", "exit": 1'
	done
}

# interrupted VERSION SIGNAL: a take is, with half of its memory gone.
interrupted() {
	serve "--version=$1" --hold=500000
	start "$SNAP" take q i
	wait_for 20 test -e log.held || fail "no half"
	kill -s "$2" "$asked"
}

# Up to 8.0 a guest hangs if its migration is cancelled: the rest is read.
test_interrupted_takes() {
	for version in 6.0 8.0; do
		interrupted $version TERM
		sleep 0.5
		assertTrue "it reads on" "kill -0 $asked"
		: >log.go
		finish
		is 1 "i: signal 15: given up"
		not_told migrate_cancel
		ends running
	done
	for signal in INT:2 TERM:15 HUP:1; do
		interrupted 8.1 "${signal%:*}"
		finish
		is 1 "i: signal ${signal#*:}: given up"
		told migrate_cancel
		ends running
	done
}

# The process that saves is gone without a word, by the kernel's hand where memory is short; the guest
# is not kept from going on.
test_a_saver_that_is_killed() {
	interrupted 8.1 0
	saver=$(grep -ls "^PPid:[[:space:]]*$asked\$" /proc/[0-9]*/status | sed 's,/proc/\(.*\)/status,\1,')
	kill -s KILL $saver
	: >log.go
	finish
	assertEquals "$(cat err)" 1 "$status"
	assertContains "$(cat err)" "qemu-snap: process $saver was killed by signal 9"
	assertContains "$(cat err)" "qemu-snap: i: save killed: there is no new image"
	assertEquals "$(cat err)" 2 "$(grep -c '' err)"
	assertFalse "an image" "[ -e i ]"
	ends running
}

# Daemons start their helpers with SIGCHLD ignored.
test_a_parent_that_forgets_its_children() {
	serve
	start python3 -c 'import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])' "$SNAP" take q i
	finish
	taken
	ends running
}

# In the background of a terminal that stops whoever writes (stty tostop), the guest would stand still.
test_no_message_stops_a_take() {
	serve
	ask python3 "$TOOLS/tostop.py" --stdin "$SNAP" --trace take q i
	ended 0 "$status" "$(cat out err)"
	run "$SNAP" check i
	expect 0 ""
	ends running
}

# The number that a shell knows is that of the process that talks to QEMU.
test_how_far_it_is() {
	interrupted 8.1 USR1
	assertTrue "an answer" "wait_for 20 grep -q 'i: take, memory: ' err"
	: >log.go
	finish
	assertEquals "exit status; $(cat err)" 0 "$status"
}

# Before there is anything to drain; slow replies, so that it hits every moment.
test_interrupted_at_any_moment() {
	for after in 0.2 0.4 0.6 0.8 1; do
		serve --pieces
		start "$SNAP" take q i
		wait_for 20 has_socket
		sleep $after
		kill -s INT "$asked"
		finish
		[ "$status" -eq 0 ] && continue	# it was through
		if [ -s log ]; then
			is 1 "given up"
			ends running
		fi
	done
}

# disks OPTION...: a server with two.
# Two files that are there; nobody touches them.
with_disks() {
	serve "--disk=sys:qcow2:$TOP/Makefile" "--disk=data:raw:$TOP/README.md" "$@"
}

COMMITS='block-commit {"auto-dismiss": false, "base-node": "#block'

test_disks() {
	with_disks
	ask "$SNAP" take --disks q i
	assertEquals 0 "$status"
	assertContains "$(cat err)" "i: the guest stood still for "
	ends running
	assertEquals "stop transaction getfd migrate cont" \
		"$(sed -n 's/^\(stop\|transaction\|getfd\|migrate\|cont\)\( .*\)*$/\1/p' log | tr '\n' ' ' |
		sed 's/ $//')"
	"$SNAP" info i >out
	assertContains "$(cat out)" "sys: as it was in $TOP/Makefile (qcow2); the guest went on in $dir/i.sys.qcow2"
	assertContains "$(cat out)" "data: as it was in $TOP/README.md (raw); the guest went on in $dir/i.data.qcow2"
	with_disks
	rm -f i.*
	ask "$SNAP" take --disks=data q i
	told "$dir/i.data.qcow2"
	not_told "$dir/i.sys.qcow2"
	rm -f i.*
	with_disks
	ask "$SNAP" take --disks=data,none q i
	is 1 "q: not all of these are disks that can be written to: data,none"
	not_told stop
	echo >i.data.qcow2
	with_disks
	ask "$SNAP" take --disks q i
	is 1 "i.data.qcow2: is there already"
	not_told stop
}

# Disks that would come to harm, or could not be found again.
test_disks_that_cannot_be_taken() {
	while IFS='|' read -r options why; do
		serve $options
		ask "$SNAP" take --disks q i
		is 1 "q: disk d: $why"
		not_told stop
		ends running
	done <<-END
		--encrypted --disk=d:qcow2:$TOP/Makefile|$TOP/Makefile: is encrypted, and its new file would not be
		--disk=d:qcow2:d.qcow2|d.qcow2: QEMU must be given a name that begins with /
		--disk=d:qcow2:/nowhere/d|/nowhere/d: is not there: a temporary file (snapshot=on), or
		--disk=d:throttle:json:{"file":1}|json:{"file":1}: no file that can be named
	END
	serve --disk=d:raw:nbd://host/d
	ask "$SNAP" take --disks q i
	assertEquals "$(cat err)" 0 "$status"
	rm -f i.*
	serve "--disk=d:raw:$TOP/Makefile"
	ask "$SNAP" take --disks q "$(printf '\351')"
	assertEquals 1 "$status"
	assertContains "$(cat err)" "QEMU takes only names that are UTF-8"
	not_told stop
	long=$(printf '%4095s' '' | tr ' ' x)
	serve "--disk=d:raw:$TOP/Makefile"
	ask "$SNAP" take --disks q "$long"
	is 1 "qemu-snap: xxx"
	not_told stop
	serve "--disk=a/b:raw:$TOP/Makefile"
	ask "$SNAP" take --disks q i
	assertTrue "$(cat err): $(echo i.*)" "[ $status -eq 0 ] && [ -e i.a_b.qcow2 ]"
	rm -f i.*
	serve $(seq 257 | sed "s,^,--disk=d,; s,\$,:raw:$TOP/Makefile,")
	ask "$SNAP" take --disks q i
	is 1 "q: more than 256 disks"
	not_told stop
}

# Who lets the guest run between the moment of its disks and that of its memory spoils both.
test_a_guest_that_somebody_lets_run() {
	with_disks --stops=1
	ask "$SNAP" take --disks q i
	assertEquals "$(cat err)" 0 "$status"
	rm -f i i.*
	with_disks --stops=2
	ask "$SNAP" take --disks q i
	is 1 "i: somebody let the guest run meanwhile: its disks are older than its memory"
	told "${COMMITS}1\""
	ends running
}

# A disk that has moved on, or that another lies on top of.
test_reverts_with_wrong_disks() {
	with_disks
	ask "$SNAP" take --disks q j
	serve --status=inmigrate "--disk=sys:qcow2:$dir/j.sys.qcow2"
	ask "$SNAP" revert q j
	is 1 "q: disk sys: the guest went on in $dir/j.sys.qcow2; put a new file on top of $TOP/Makefile"
	not_told migrate-incoming
	serve --status=inmigrate "--disk=sys:qcow2:$TOP/Makefile"
	ask "$SNAP" revert q j
	is 1 "q: disk sys: $TOP/Makefile lies below $dir/j.sys.qcow2, and must not be written to"
	not_told migrate-incoming
	rm j.sys.qcow2
	serve --status=inmigrate "--disk=sys:qcow2:$TOP/Makefile"
	ask "$SNAP" revert q j
	assertEquals "$(cat err)" 0 "$status"
}

# The migration goes well, which is no reason for anything.
test_a_revert_whose_guest_may_not_go_on() {
	with_disks
	ask "$SNAP" take --disks q j
	rm j.sys.qcow2 j.data.qcow2
	serve --status=inmigrate --loaded=paused --runs-first "--refuse=cont:Nobody may"
	ask "$SNAP" revert q j
	is 1 "q: cont: QEMU says: Nobody may"
	ends paused
}

# QEMU has made the files then.
test_a_transaction_that_is_refused() {
	with_disks "--refuse=transaction:Device is busy"
	ask "$SNAP" take --disks q i
	is 1 "q: transaction: QEMU says: Device is busy"
	ends running
}

# Nobody knows what became of it: nothing may be removed.
test_a_transaction_without_an_answer() {
	with_disks --close=transaction
	ask "$SNAP" take --disks q i
	assertEquals 1 "$status"
	assertContains "$(cat err)" "q: QEMU has closed its monitor"
	assertContains "$(cat err)" "disk sys could not be given back: it goes on in $dir/i.sys.qcow2, on top of $TOP/Makefile"
	assertContains "$(cat err)" "disk data could not be given back"
	assertTrue "the files" "[ -e i.sys.qcow2 ] && [ -e i.data.qcow2 ]"
	assertFalse "an image" "[ -e i ]"
}

test_disks_are_given_back() {
	with_disks --hold=500000 "--fail=Guest has a disease"
	: >log.go
	ask "$SNAP" take --disks q i
	is 1 "q: QEMU says: Guest has a disease"
	ends running
	told "${COMMITS}0\""
	told "${COMMITS}1\""
	with_disks "--refuse=migrate:Never"
	ask "$SNAP" take --disks q i
	is 1 "q: migrate: QEMU says: Never; --stop does without"
	told "${COMMITS}1\""
	ends running
	with_disks --status=paused "--refuse=getfd:Never"
	ask "$SNAP" take --disks q i
	is 1 "q: getfd: QEMU says: Never"
	ends paused
}

# What the guest has written since is in the new files only.
test_disks_that_cannot_be_given_back() {
	for how in "--job-error=No space left" "--refuse=block-commit:No space left" \
		"--refuse=job-complete:No space left"; do
		rm -f i.*
		with_disks "--refuse=migrate:Never" "$how"
		ask "$SNAP" take --disks q i
		assertEquals "$how" 1 "$status"
		assertContains "$(cat err)" "QEMU says: Never"
		assertContains "$(cat err)" "QEMU says: No space left"
		assertContains "$(cat err)" \
			"disk sys could not be given back: it goes on in $dir/i.sys.qcow2, on top of $TOP/Makefile"
		assertEquals "$how: $(cat err)" 5 "$(grep -c '' err)"
		assertTrue "the files" "[ -e i.sys.qcow2 ] && [ -e i.data.qcow2 ]"
		ends running
	done
}

# faulty WHAT OPTION...: a take in whose saver something fails.
faulty() {
	export SNAP_FAULT=$1 SNAP_FAULT_CHILD=1
	shift
	ask "$FAULT" take "$@" q i
	unset SNAP_FAULT SNAP_FAULT_CHILD
}

# The disks are given back if no image is there, and only then: not if just its name is not durable.
test_disks_go_with_the_image() {
	[ -x "$FAULT" ] || skip "no $FAULT" || return 0
	save older s
	for older in "" older; do
		stays=0
		for n in 1 2 3 4 5 6 7 8 9; do
			rm -f i.*
			with_disks
			[ -z "$older" ] || cp older i
			faulty fsync:$n:EIO --disks
			[ "$status" -ne 0 ] || break
			assertEquals "fsync $n: $(cat err)" 1 "$status"
			ends running
			if grep -q "i: is in place, but its name may be lost" err; then
				stays=$((stays + 1))
				not_told block-commit
				assertTrue "fsync $n: the disks" "[ -e i.sys.qcow2 ] && '$SNAP' check i"
				continue
			fi
			told "${COMMITS}1\""
			assertTrue "fsync $n: $(cat err)" "[ ! -e i ] || cmp i '$older'"
		done
		assertEquals "an end" "0 $((1 - ${#older} / 5))" "$status $stays"
	done
}

# When a guest that is paused has migrated, it must run for a moment: its disks cannot be written to.
test_disks_of_a_paused_guest_are_given_back() {
	[ -x "$FAULT" ] || skip "no $FAULT" || return 0
	with_disks --status=paused
	faulty rename:1:EIO --stop --disks
	is 1 "qemu-snap: i: cannot take its name, whatever QEMU says: "
	assertEquals "migrate cont stop block-commit block-commit" \
		"$(grep -E '^(migrate|cont|stop|block-commit) |^(cont|stop)$' log | cut -d ' ' -f 1 | tr '\n' ' ' |
		sed 's/ $//')"
	ends paused
}

# Whether it runs or not, the guest stays so.
test_a_guest_that_is_paused() {
	for words in "" --stop; do
		# QEMU 7.2 lets it run.
		serve --status=paused --background
		ask "$SNAP" take $words q i
		taken
		ends paused
	done
	# Whether it does is not known: that is no success.
	serve --status=paused "--refuse-late=query-status:Not now"
	ask "$SNAP" take q i
	expect 1 "qemu-snap: q: query-status: QEMU says: Not now"
}

# ---- status ----

test_what_a_monitor_tells() {
	serve "--migration=failed:Not on this machine" --on=xbzrle --on=return-path --status=paused
	ask "$SNAP" status q
	expect 0 ""
	cat >wanted <<-END
		QEMU           10.0
		guest          paused
		migration      failed
		why            Not on this machine
		capabilities   xbzrle return-path
		bandwidth      128.0 MiB
	END
	assertEquals "$(cat wanted)" "$(cat out)"
	grep -v -e query- -e qmp_capabilities log >told
	assertEquals "end 134217728 return-path,xbzrle paused none" "$(cat told)"
	for at in query-status query-migrate query-migrate-capabilities query-migrate-parameters; do
		serve "--refuse=$at:Nobody may"
		ask "$SNAP" status q
		is 1 "q: $at: QEMU says: Nobody may"
	done
}

# ---- revert ----

# An image j, and a server that waits for it.
waiting() {
	[ -e j ] || save j s
	serve --status=inmigrate "$@"
}

test_commands_of_a_revert() {
	for version in 7.2:'' 9.0:'' 9.1:'"exit-on-error": false, '; do
		waiting "--version=${version%%:*}"
		ask "$SNAP" revert q j
		assertEquals "$(cat err)" 0 "$status"
		assertContains "$(cat err)" "j: the guest ran after "
		assertEquals 1 "$(grep -c '' err)"
		ends running
		assertEquals "qmp_capabilities
getfd {\"fdname\": \"qemu-snap\"}
migrate-incoming {${version#*:}\"uri\": \"fd:qemu-snap\"}
end 134217728 none running none" "$(grep -v query- log)"
	done
	waiting --loaded=paused --pieces --events --wrong-ids
	ask "$SNAP" revert q j
	is 0 "; the guest is paused"
}

# What QEMU says of the destination's memory is heeded.
test_huge_pages_of_the_destination() {
	waiting --ramblock="
              Block Name    PSize              Offset               Used              Total
                  pc.ram    2 MiB  0x0000000000000000 0x0000000000100000 0x0000000000100000
"
	ask "$SNAP" revert --postcopy q j
	assertEquals "exit status; $(cat err)" 1 "$status"
	assertContains "$(cat err)" "j: block pc.ram is not whole pages of 2097152 bytes"
}

test_a_qemu_that_does_not_wait() {
	for state in running paused; do
		waiting --status=$state
		ask "$SNAP" revert q j
		is 1 "q: this QEMU does not wait for a guest: it is $state"
		not_told migrate-set
		not_told getfd
	done
	waiting --migration=active
	ask "$SNAP" revert q j
	is 1 "q: this QEMU does not wait for a guest"
	waiting
	ask "$SNAP" revert --resume q j
	is 1 "q: nothing is to be resumed here"
	waiting --migration=postcopy-paused --status=running
	ask "$SNAP" revert q j
	is 1 "q: the guest waits for memory: revert --resume brings it, from the very image"
}

# QEMU hears of nothing before the image was looked at.
test_images_that_are_damaged() {
	save good s
	for offset in 8 $(($(size_of good) - 5000)) $(($(size_of good) - 20)); do
		cp good bad
		poke bad "$offset" 252
		for words in "" --postcopy; do
			waiting
			ask "$SNAP" revert $words q bad
			is 2 "bad: "
			not_told migrate-set
			not_told getfd
			ends inmigrate
		done
	done
	waiting
	ask "$SNAP" revert q missing
	is 1 "missing: No such file or directory"
	# Nor before the options were.
	echo text >text
	while IFS='|' read -r option words; do
		waiting
		ask "$SNAP" --postcopy $option revert q j
		is 1 "$words"
		not_told migrate-incoming
		ends inmigrate
	done <<-'END'
		--record=text|text: is there and is not a hot list: not replaced
		--record=text/x|text/x: hot list cannot be written: Not a directory
		--record=none/x|none/x: hot list cannot be written: No such file or directory
		--host-page-size=nosuch=2M|j: has no block nosuch
	END
	waiting
	ask "$SNAP" revert --uuid=00000000-0000-0000-0000-000000000000 q j
	is 1 "j: another image"
	ends inmigrate
}

test_reverts_that_are_refused() {
	for at in getfd migrate-incoming migrate-set-capabilities; do
		waiting "--refuse=$at:Nobody may"
		ask "$SNAP" revert --postcopy q j
		assertEquals 1 "$status"
		assertContains "$(cat err)" "QEMU says: Nobody may"
		[ $at = migrate-set-capabilities ] || is 1 "QEMU says: Nobody may"
		ends inmigrate
	done
}

test_a_qemu_that_dies_or_fails() {
	for take in 1 4000 300000; do
		waiting --take=$take
		ask "$SNAP" revert q j
		# The loader tells of its stream, too.
		grep 'q: QEMU' err >told
		mv told err
		is 1 "q: QEMU "
	done
	waiting "--fail=Not this machine"
	ask "$SNAP" revert q j
	is 1 "q: QEMU says: Not this machine"
	waiting --fail=
	ask "$SNAP" revert q j
	is 1 "q: QEMU gives no reason; the migration is failed"
}

test_a_postcopy_that_is_paused() {
	waiting --take=4000 --paused
	ask "$SNAP" revert --postcopy q j
	assertEquals 1 "$status"
	assertEquals "the last message" \
		"qemu-snap: q: the guest waits for memory; to go on: revert --resume --uuid=$("$SNAP" info j |
		awk '$1 == "UUID" { print $2 }') q j" "$(tail -n 1 err)"
	assertNotContains "$(cat err)" "QEMU says"
	assertEquals "$(cat err)" 3 "$(grep -c '' err)"
	ends running postcopy-ram
}

# Whoever resumes from another image is not told to do so once more.
test_a_resume_from_another_image() {
	mk t --block=other:100
	save k t
	waiting --migration=postcopy-paused --status=running --take=4 --paused
	ask "$SNAP" revert --resume q k
	assertEquals 1 "$status"
	assertContains "$(tail -n 1 err)" "q: the guest waits for memory: revert --resume brings it, from the very"
	assertNotContains "$(tail -n 1 err)" "q k"
}

# A QEMU 7.2 may hang then; nobody is to wait for it who cannot help it any more.
test_a_postcopy_that_is_paused_and_silent() {
	waiting --take=4000 --paused --silent-when=postcopy-paused
	ask "$SNAP" revert --postcopy q j
	assertEquals "exit status; $(cat err)" 1 "$status"
	assertEquals "qemu-snap: q: QEMU does not answer" "$(tail -n 1 err)"
}

. "$shunit"
