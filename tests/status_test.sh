#!/bin/sh
# How far long work is: the answer to SIGUSR1, at any time and without harm; --progress, on a
# terminal and elsewhere; --status-fd for programs, whatever these do.

. "$(dirname "$0")/lib.sh"

FAULT=${FAULT:-$TOOLS/qemu-snap-fault}

setUp() {
	enter
	pids=
}
tearDown() {
	[ -z "$pids" ] || kill -9 $pids 2>/dev/null
	pids=
	leave
}

# What a line tells of work whose end is known, and of other work.
size='[0-9.]+ [KMGTPE]iB'
hours='([0-9]+:)?[0-9]+:[0-5][0-9]'
share="$size of $size, [0-9]+%, $size/s(, $hours left)?(, [0-9]+ asked for)?"
other="(for $hours|$size, $size/s)(, [0-9]+ asked for)?"

# lines FILE NAME VERB: all lines there are of this form; and how many.
lines() {
	assertEquals "$3: other lines" "" \
		"$(grep -vE "^qemu-snap: $2: $3, [a-z]+: ($share|$other)\$" "$1")"
	count=$(wc -l <"$1")
}

# asked FILE WORDS PID: a SIGUSR1, and the last line of FILE has these words in a second.
asked() {
	asked_before=$(wc -l <"$1")
	kill -USR1 "$3"
	assertTrue "$2: no answer" "wait_for 3 has_more $1 $asked_before"
	assertContains "$(tail -n 1 "$1")" "$2"
}

has_more() {
	[ "$(wc -l <"$1")" -gt "$2" ]
}

# A pipe that is read, or fed, a little at a time.
slowly() {
	python3 -c '
import os, time
while True:
    piece = os.read(0, 300000)
    if not piece:
        break
    while piece:
        piece = piece[os.write(1, piece):]
    time.sleep(0.01)'
}

# ---- signals ----

test_a_save_answers() {
	mk s --block=a:3000 --json=1000
	mkfifo pipe
	"$SNAP" save i <pipe 2>err &
	pid=$!
	pids=$pid
	exec 3>pipe
	wait_for 10 sh -c 'ls i.part.* >/dev/null 2>&1'
	asked err "i: save, waiting: for 0:0" $pid
	head -c 4000000 s >&3
	asked err "i: save, memory: " $pid
	wait_for 10 sh -c "kill -USR1 $pid; grep -q 'memory: [1-9]' err"
	asked err "of 11.7 MiB, " $pid
	tail -c +4000001 s >&3
	exec 3>&-
	wait $pid
	assertEquals 0 $?
	lines err i save
	run "$SNAP" check i
	expect 0 ""
}

# The stream is read on after a failure, which may take as long.
test_a_save_that_drains_answers() {
	mk s --block=a:3000 --json=1000
	mkfifo pipe
	for words in "-s 4K" ""; do
		"$SNAP" $words save i <pipe 2>err &
		pid=$!
		pids=$pid
		exec 3>pipe
		if [ "$words" ]; then
			head -c 4000000 s >&3
			wait_for 10 grep -q image-size err
			asked err "save, draining: " $pid
		else
			echo "this is no stream" >&3
			wait_for 10 grep -q "not a migration stream" err
			asked err "save, draining: for 0:0" $pid
		fi
		exec 3>&-
		wait $pid
		assertNotEquals "$words" 0 $?
	done
}

test_a_load_answers() {
	mk s --block=a:8000 --zero=0
	save i s
	"$SNAP" load i >want
	mkfifo pipe
	# Before there is a handler, the signal ends what does not ignore it.
	trap '' USR1
	"$SNAP" load i >pipe 2>err </dev/null &
	pid=$!
	trap - USR1
	pids=$pid
	exec 3<pipe
	wait_for 10 sh -c "kill -USR1 $pid && sleep 0.1 && grep -q memory err"
	asked err "i: load, memory: " $pid
	cat <&3 >got
	exec 3<&-
	wait $pid
	assertEquals 0 $?
	lines err i load
	assertTrue "what was loaded" "cmp want got"
}

test_a_page_server_answers() {
	mk s --block=a:2000 --zero=0
	save i s
	"$TOOLS/rpclient" --dump --requests=20 sh -c 'echo $$ >pid; exec "$@"' - \
		"$SNAP" --postcopy --rate=4M load i >out 2>err &
	client=$!
	pids=$client
	wait_for 10 grep -q served err
	pid=$(cat pid)
	wait_for 10 sh -c "kill -USR1 $pid; grep -q 'i: load, serving: ' err" || fail "no answer"
	# Also when nothing moves any more, neither asked for nor sent.
	kill -STOP $client
	sleep 0.5
	asked err " of 7.8 MiB, " "$pid"
	asked err " of 7.8 MiB, " "$pid"
	kill -CONT $client
	wait $client
	ended 0 $? "$(cat err)"
	grep -v 'served in postcopy' err >told
	lines told i load
	assertContains "$(tail -n 1 told)" "asked for"
}

# Whoever started us may have made our pipes such that they do not block.
test_pipes_that_do_not_block() {
	mk s --block=a:3000 --json=1000
	save i s
	"$SNAP" load i >want
	cat >open.py <<-'END'
		import os, signal, subprocess, sys, time
		def until(what):
		    end = time.time() + 10
		    while not what() and time.time() < end:
		        time.sleep(0.02)
		    assert what(), open("err").read()
		r, w = os.pipe()
		os.set_blocking(r, False)
		p = subprocess.Popen([sys.argv[1], "save", "j"], stdin=r, stderr=open("err", "w"),
		    preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN))
		os.write(w, open("s", "rb").read(60000))
		until(lambda: p.send_signal(signal.SIGUSR1) or "save, memory: " in open("err").read())
		p.terminate()
		until(lambda: "signal 15: given up" in open("err").read())
		os.close(w)
		assert p.wait() == 1
		r, w = os.pipe()
		os.set_blocking(w, False)
		p = subprocess.Popen([sys.argv[1], "load", "i"], stdout=w, stdin=subprocess.DEVNULL)
		os.close(w)
		time.sleep(0.3)
		got = os.fdopen(r, "rb").read()
		assert p.wait() == 0, p.returncode
		assert got == open("want", "rb").read()
	END
	python3 open.py "$SNAP" 2>said
	ended 0 $? "$(tail -n 3 said)"
}

# ---- storms: hundreds of signals, and nothing is lost or begun anew ----

# stormy COMMAND...: it must have had hundreds of signals.
stormy() {
	python3 "$TOOLS/storm.py" storm "$@"
	echo $? >status
}

was_stormy() {
	assertEquals "exit status; $(tail -n 3 err)" 0 "$(cat status)"
	assertTrue "only $(cat storm) signals" "[ $(cat storm) -ge 200 ]"
}

test_a_save_in_a_storm() {
	mk s --block=a:12000 --shuffle
	save want s --reproducible --cluster-size=64K
	for options in --aio=threads,0 --aio=threads,4 --cache=none; do
		slowly <s | stormy "$SNAP" --reproducible --cluster-size=64K $options save i 2>err
		was_stormy
		lines err i save
		assertTrue "$count lines" "[ $count -ge 20 ]"
		assertTrue "$options: the same image" "cmp want i"
	done
}

test_a_load_in_a_storm() {
	mk s --block=a:12000 --zero=5
	save i s
	"$SNAP" load i >want
	for options in --aio=threads,0 --aio=threads,4; do
		stormy "$SNAP" $options load i 2>err | slowly >got
		was_stormy
		lines err i load
		assertTrue "$options: the same stream" "cmp want got"
	done
}

# Signals while nobody says anything are no word: the source that waits for its answer gets it.
test_the_source_gets_its_answer_in_a_storm() {
	for json in 1000 0; do
		mk s --kind=ordinary --return-path --json=$json
		assertEquals "shut 0
exit 0" "$(python3 "$TOOLS/source.py" s python3 "$TOOLS/storm.py" storm "$SNAP" save i 2>err)"
		lines err i save
	done
	# Nor does the destination seem to be a source.
	(sleep 2; echo) | python3 "$TOOLS/storm.py" storm "$SNAP" --bogus 2>err | od -An -tx1 >bytes
	assertEquals " ff ff ff ff" "$(cat bytes)"
}

test_a_page_server_in_a_storm() {
	mk s --block=a:6000 --zero=5
	save i s
	pages_of <s | grep -v ' zero$' | sort >want
	for options in "--postcopy" "--postcopy=40 --aio=threads,0" "--postcopy=100"; do
		serve --dump --requests=800 --burst=4 --read-delay=100 -- $options load i
		grep -v -e ' zero$' -e '^pages ' out | sort >quiet
		"$TOOLS/rpclient" --dump --timeout=60 --requests=800 --burst=4 --read-delay=2000 \
			python3 "$TOOLS/storm.py" storm "$SNAP" $options load i >out 2>err
		ended 0 $? "$(tail -n 1 out; tail -n 3 err)"
		grep -v -e ' zero$' -e '^pages ' out | sort >got
		assertTrue "$options: pages" "cmp want got && cmp want quiet"
		assertTrue "only $(cat storm) signals" "[ $(cat storm) -ge 200 ]"
	done
	"$TOOLS/rpclient" --timeout=60 --requests=0 --hangup=3000 --read-delay=2000 \
		--resume="exec python3 '$TOOLS/storm.py' storm '$SNAP' --resume load i" \
		"$SNAP" --postcopy load i >out 2>err
	ended 0 $? "resumed: $(cat out; tail -n 3 err)"
}

test_other_verbs_in_a_storm() {
	mk s --block=a:60000 --zero=0
	save i s
	stormy "$SNAP" check i >out 2>err
	assertEquals "$(tail -n 1 err)" 0 "$(cat status)"
	assertContains "$(cat out)" "i: good"
	lines err i check
	assertTrue "check: $count lines" "[ $count -gt 0 ]"
	"$SNAP" --reproducible optimize i want
	stormy "$SNAP" --reproducible optimize i j 2>err
	assertEquals "$(tail -n 1 err)" 0 "$(cat status)"
	lines err j optimize
	assertTrue "optimize: $count lines" "[ $count -gt 0 ]"
	assertTrue "the same image" "cmp want j"
	stormy "$SNAP" info --json i >out 2>err
	assertEquals "$(cat err)" 0 "$(cat status)"
	assertTrue "info" "python3 -m json.tool <out >/dev/null"
	# To a pipe that is full, and read late.
	mk s
	save t s
	long=$(awk 'BEGIN { while (n++ < 1500) printf "./"; print "t" }')
	stormy "$SNAP" check $(yes "$long" | head -n 40) 2>err | { sleep 2; cat; } >out
	assertEquals "$(tail -n 1 err)" 0 "$(cat status)"
	assertEquals 40 "$(grep -c '/t: good, ' out)"
}

# On some file systems a signal interrupts these calls, too.
test_interrupted_calls_are_made_again() {
	[ -x "$FAULT" ] || skip "no $FAULT" || return 0
	mk s
	save want s --reproducible
	for call in open:1 open:2 open:3 fsync:1 fsync:2 fsync:3 ftruncate:1 pwrite:2; do
		SNAP_FAULT=$call:EINTR SNAP_FAULT_COUNT=$dir/count "$FAULT" --reproducible save i <s 2>err
		ended 0 $? "$call: $(cat err)"
		assertTrue "$call" "cmp want i"
	done
}

# ---- the terminal ----

# Of each write of the line, no more than 79 columns: between returns and newlines.
narrow() {
	assertEquals "too wide" "" "$(tr '\r' '\n' <"$1" | grep -aE '.{80}')"
}

test_a_line_on_the_terminal() {
	mk s --block=a:12000 --zero=0 --json=1000
	for options in "" --progress; do
		slowly <s | python3 "$TOOLS/terminal.py" raw "$SNAP" $options save i >screen
		assertEquals "nothing stays" "" "$(cat screen)"
		tr '\r' '\n' <raw | sed 's/ *$//' | grep . >shown
		assertTrue "$(wc -l <shown) lines" "[ $(wc -l <shown) -ge 3 ]"
		assertEquals "other lines" "" "$(grep -vE "^i: save, [a-z]+: ($share|$other)\$" shown)"
		assertEquals "ends with a wiped line" "$(printf '\r')" "$(tail -c 1 raw)"
		narrow raw
	done
	# What was done before anybody looked needs none.
	mk tiny
	save t tiny
	python3 "$TOOLS/terminal.py" raw "$SNAP" check t >screen
	assertEquals "" "$(cat raw)"
	# Nor does whoever works behind others' backs.
	slowly <s | python3 "$TOOLS/terminal.py" --behind raw "$SNAP" save i >screen
	assertEquals "behind" "" "$(cat raw)"
	slowly <s | python3 "$TOOLS/terminal.py" --behind raw "$SNAP" --progress save i >screen
	assertContains "behind, but told to" "$(cat raw)" "save, memory"
}

# Where those in the background are stopped when they write (stty tostop), a save must not be: the
# guest would stand still.
test_no_message_stops_a_save() {
	mk s
	(sleep 1; cat s) | python3 "$TOOLS/tostop.py" "$SNAP" save i
	assertEquals 0 $?
	run "$SNAP" check i
	expect 0 ""
}

test_the_line_makes_room_for_messages() {
	mk s --block=a:12000 --zero=0 --json=1000
	# A line was there before each of them.
	head -c 40000000 s | slowly | python3 "$TOOLS/terminal.py" raw "$SNAP" --trace save i |
		sed 's/9[0-9]* page/9xxx page/' >screen
	assertContains "there was a line" "$(cat raw)" "save, memory: "
	assertEquals "qemu-snap: stream offset 40000000: stream ends before its RAM does: cut, failed or cancelled
qemu-snap: i: 9xxx page records came" "$(cat screen)"
	slowly <s 2>/dev/null | python3 "$TOOLS/terminal.py" raw "$SNAP" -s 20M save i >screen
	assertEquals 1 "$(wc -l <screen)"
	assertContains "$(cat screen)" "--image-size"
	# And for an answer to a signal.
	slowly <s | python3 "$TOOLS/terminal.py" raw python3 "$TOOLS/storm.py" storm "$SNAP" save i >screen
	assertEquals "" "$(grep -vE "^qemu-snap: i: save, [a-z]+: ($share|$other)\$" screen)"
	# And for stdout.
	save i s
	python3 "$TOOLS/terminal.py" --stdout raw "$SNAP" check $(yes i | head -n 100) >screen
	assertEquals 100 "$(grep -c '^i: good, 12000 pages stored$' screen)"
	assertEquals "100 images: 100 good, 0 damaged or not understood, 0 not to be checked" \
		"$(grep -v '^i: good, 12000 pages stored$' screen)"
	assertContains "$(cat raw)" "check, "
}

test_nothing_elsewhere() {
	mk s --block=a:8000 --zero=0
	slowly <s | "$SNAP" save i 2>err
	assertEquals "" "$(cat err)"
}

test_progress_in_a_file() {
	mk s --block=a:30000 --zero=0
	slowly <s | "$SNAP" --progress save i 2>err
	assertContains "$(tail -n 1 err)" "qemu-snap: i: save: done in "
	sed '$d' err >told
	lines told i save
	assertTrue "$count lines" "[ $count -ge 2 ]"
	assertTrue "one a second, not $count" "[ $count -le 20 ]"
	mk s
	save i s
	run "$SNAP" --progress check i
	expect 0 "qemu-snap: i: check: done in 0:00"
	run "$SNAP" --progress check missing
	expect 1 "qemu-snap: missing: No such file or directory"
}

# ---- for programs ----

# told FILE OUTCOME: all lines are JSON, and the last one tells this; the phases go to the file phases.
told() {
	python3 - "$1" "$2" >phases <<-'END'
		import json, sys
		lines = open(sys.argv[1], "rb").read()
		assert lines.endswith(b"\n")
		lines = [json.loads(l) for l in lines.splitlines()]
		for l in lines[:-1]:
		    assert set(l) >= {"verb", "image", "phase", "seconds", "bytes", "total", "pages",
		        "rate"}, l
		    assert l["phase"] != "end" and "exit" not in l
		    assert l["total"] is None or 0 <= l["bytes"] <= l["total"], l
		last = lines[-1]
		assert last["phase"] == "end"
		got = "%s %d" % (last["outcome"], last["exit"])
		assert got == sys.argv[2], got
		assert [l["seconds"] for l in lines] == sorted(l["seconds"] for l in lines)
		print(*dict.fromkeys(l["phase"] for l in lines))
	END
	assertEquals "$1" 0 $?
}

# phases FILE OUTCOME PHASE...
phases() {
	told "$1" "$2"
	shift 2
	assertEquals "phases" "$*" "$(cat phases)"
}

test_lines_for_programs() {
	mk s --block=a:8000 --zero=20
	slowly <s | "$SNAP" --status-fd=3 save i 3>st
	phases st "done 0" opening waiting memory devices commit end
	assertTrue "lines on the way" "[ $(grep -c '"phase": "memory"' st) -ge 2 ]"
	assertContains "$(cat st)" '"total": 32768000, '
	run "$SNAP" --status-fd=3 check i missing i 3>st
	phases st "failed 1" opening tables memory end
	assertContains "$(cat st)" '"image": "missing"'
	"$SNAP" --status-fd 4 load i 4>st >/dev/null
	phases st "done 0" opening memory devices end
	"$SNAP" --status-fd=3 optimize i j 3>st
	phases st "done 0" opening memory devices commit end
	serve --requests=100 -- --status-fd=3 --postcopy load i 3>st
	phases st "done 0" opening starting serving ending end
	serve --requests=100 -- --status-fd=3 --postcopy=50 load i 3>st
	phases st "done 0" opening memory starting serving ending end
	python3 - <<-'END'
		import json
		last = [json.loads(l) for l in open("st")][-1]
		assert last["requests"] == 100 and last["repeats"] == 0 and last["answered"] <= 100
		lat = last["latency"]
		assert 0 < lat["p50"] <= lat["p99"] <= lat["max"], lat
	END
	assertEquals "what a page server tells" 0 $?
}

# What is there already counts as done.
test_programs_are_told_of_a_resume() {
	mk s --block=a:20000 --zero=0
	save i s
	"$TOOLS/rpclient" --requests=10 --hangup=15000 \
		--resume="exec '$SNAP' --status-fd=3 --rate=20M --resume load i 3>st" \
		"$SNAP" --postcopy load i >out 2>err
	ended 0 $? "$(cat out err)"
	phases st "done 0" opening resuming serving ending end
	python3 - <<-'END'
		import json
		serving = [json.loads(l) for l in open("st") if '"serving"' in l]
		assert serving[-1]["bytes"] > serving[-1]["total"] / 2, serving
		assert serving[-1]["pages"] * 4096 == serving[-1]["bytes"], serving
	END
	assertEquals "how far it is" 0 $?
}

test_programs_are_told_of_failures() {
	mk s --block=a:3000 --zero=20
	head -c 3000000 s >cut
	run_on cut "$SNAP" --status-fd=3 save i 3>st
	phases st "failed 2" opening waiting memory draining end
	run_on s "$SNAP" --status-fd=3 -s 4K save i 3>st
	phases st "failed 1" opening waiting memory draining end
	run_on s "$SNAP" --status-fd=3 save missing/i 3>st
	phases st "failed 1" opening draining end
	save i s
	poke i 3000000 377
	poke i 3000001 377
	for verb in check "load"; do
		run "$SNAP" --status-fd=3 $verb i 3>st
		told st "failed 2"
	done
	"$SNAP" --status-fd=3 optimize i missing/j 3>st 2>err
	phases st "failed 1" opening end
	mk s --block=a:20000
	save i s
	serve --hangup=100 --expect-exit=1 -- --postcopy --status-fd=3 load i 3>st
	told st "failed 1"
	# A number of seconds is one wherever numbers are written with commas.
	assertTrue "seconds" "grep -q '\"seconds\": [0-9]*\.[0-9][0-9][0-9],' st"
}

# Also while the older image is being removed, and by the guard, nobody has it open.
test_programs_see_the_end() {
	mk s
	save i s
	dd if=/dev/zero of=i bs=1 seek=104857600 count=1 2>/dev/null
	"$SNAP" --status-fd=3 save i 3>&1 <s | tail -n 1 >st
	told st "done 0"
	mkfifo pipe
	"$SNAP" --status-fd=3 save i <pipe 3>st 2>err &
	pid=$!
	pids=$pid
	exec 3>pipe
	wait_for 10 grep -q waiting st
	if command -v lsof >/dev/null 2>&1; then
		assertEquals "who has it open" $pid "$(lsof -t st)"
	elif [ -d /proc/self/fd ]; then
		assertEquals "who has it open" "/proc/$pid/fd/3" \
			"$(ls -l /proc/[0-9]*/fd/* 2>/dev/null | sed -n "s, -> $dir/st\$,,p" | sed 's,.* ,,')"
	fi
	cat s >&3
	exec 3>&-
	wait $pid
	assertEquals 0 $?
}

# Someone who does not read, or reads no more, harms nobody.
test_programs_that_do_not_read() {
	mk s --block=a:8000 --zero=0
	save want s --reproducible
	cat >full.py <<-'END'
		import os, sys
		r, w = os.pipe()
		os.set_blocking(w, False)
		if sys.argv[1] == "full":
		    try:
		        while True:
		            os.write(w, b"x" * 512)
		    except BlockingIOError:
		        pass
		    os.set_inheritable(r, True)
		else:
		    os.close(r)
		os.set_blocking(w, True)
		os.dup2(w, 9)
		os.execv(sys.argv[2], sys.argv[2:])
	END
	for how in full gone; do
		slowly <s | python3 full.py $how "$SNAP" --status-fd=9 --reproducible save i 2>err &
		ends $! "$how: $(cat err)"
		assertEquals "$how" "" "$(cat err)"
		assertTrue "$how: the image" "cmp want i"
		rm i
		"$SNAP" --reproducible save i <s
		python3 full.py $how "$SNAP" --status-fd=9 load i 2>err | cksum >got
		assertEquals "$how" "$("$SNAP" load i | cksum)" "$(cat got)"
		serve --requests=100 -- --postcopy load i
		"$TOOLS/rpclient" --requests=300 python3 full.py $how "$SNAP" --status-fd=9 --postcopy load i \
			>out 2>err
		ended 0 $? "$how, postcopy: $(cat out err)"
	done
	# Nor does one of --progress.
	slowly <s | python3 -c '
import os, sys
r, w = os.pipe()
os.set_blocking(w, False)
try:
    while True:
        os.write(w, b"x" * 512)
except BlockingIOError:
    pass
os.set_blocking(w, True)
os.set_inheritable(r, True)
os.dup2(w, 2)
os.execv(sys.argv[1], sys.argv[1:])' "$SNAP" --progress --reproducible save i &
	ends $! "--progress"
	assertTrue "--progress: the image" "cmp want i"
}

# ends PID WORDS: of its own accord, and well.
ends() {
	wait_for 20 sh -c "! kill -0 $1 2>/dev/null" || kill -9 $1
	wait $1
	assertEquals "$2" 0 $?
}

# refused MESSAGE ARG...
refused() {
	message=$1
	shift
	run "$SNAP" "$@"
	expect 1 "qemu-snap: $message"
}

test_descriptors_that_will_not_do() {
	refused "--status-fd=7: this descriptor is not open" --status-fd=7 check x 7>&-
	refused "--status-fd=x: not a descriptor from 0 to 255" --status-fd=x check x
	refused "--status-fd=256: not a descriptor from 0 to 255" --status-fd=256 check x
	refused "--status-fd=-1: not a descriptor from 0 to 255" --status-fd=-1 check x
	refused "--status-fd=3: this descriptor is not open for writing" --status-fd=3 check x 3</dev/null
	refused "--status-fd=0: this descriptor is not open for writing" --status-fd=0 check x
	for verb in save load; do
		run_on /dev/null "$SNAP" --status-fd=1 $verb x
		expect 1 "qemu-snap: --status-fd=1: there the stream goes, or the answer to it"
		"$SNAP" --status-fd=0 $verb x 0<>/dev/null 2>err >out
		assertEquals 1 $?
		assertContains "$(cat err)" "qemu-snap: --status-fd=0: there the stream goes"
	done
	# A line within the stream would be worse than none.
	"$SNAP" --status-fd=3 load x 3>&1 2>err </dev/null | od -An -tx1 >bytes
	assertContains "$(cat err)" "qemu-snap: --status-fd=3: there the stream goes"
	assertEquals " ff ff ff ff" "$(cat bytes)"
	refused "--progress: not for info" --progress info x
	refused "--status-fd: not for info" --status-fd=2 info x
	# stdout of check, and stderr, are free to take it.
	mk s
	save i s
	run "$SNAP" --status-fd=1 check i
	expect 0 ""
	assertContains "$(tail -n 1 out)" '"outcome": "done"'
	run_on s "$SNAP" --status-fd=2 save i
	assertEquals 0 "$status"
	told err "done 0"
	"$SNAP" --status-fd=2 save i <s 2>&-
	assertEquals "stderr closed" 0 $?
	# If nobody reads it any more, it becomes no file's descriptor: the image has no messages.
	"$SNAP" --reproducible save want <s
	python3 -c 'import os, sys
r, w = os.pipe()
os.close(r)
os.dup2(w, 2)
os.execvp(sys.argv[1], sys.argv[1:])' "$SNAP" --reproducible --trace --status-fd=2 save i <s
	assertEquals "stderr that nobody reads" 0 $?
	assertTrue "the image" "cmp want i"
	# Whatever is wrong, a source is drained, and a destination told.
	for fd in 1 7 x; do
		(head -c 3000000 /dev/zero && echo through >fed) |
			"$SNAP" --status-fd=$fd save j 2>err >out 7>&-
		assertEquals "$fd" "through" "$(cat fed 2>/dev/null)"
		rm -f fed
		"$SNAP" --status-fd=$fd load i 2>err 7>&- </dev/null | od -An -tx1 >bytes
		assertEquals "$fd" " ff ff ff ff" "$(cat bytes)"
	done
}

# ---- names ----

# However long the name is, the line tells how far it is.
test_a_name_longer_than_a_message() {
	mk s
	save i s
	long=$(awk 'BEGIN { while (n++ < 1500) printf "./"; print "i" }')
	run "$SNAP" --progress check "$long"
	assertEquals 0 "$status"
	assertContains "$(tail -c 60 err)" "./i: check: done in 0:00"
	assertContains "$(head -c 30 err)" "qemu-snap: ..."
}

test_odd_names() {
	mk s --block=a:12000 --zero=0
	cat >names.py <<-'END'
		import json, subprocess, sys, os
		snap, terminal, storm = sys.argv[1:]
		long = "./" * 900 + "a" * 200
		for name in (b'a\nb', b'q"uo\\te', b'\xff\xfe\x80z', b'e\x1b[2Jsc', 'gr\u00fc\u00df-\u732b'.encode(),
		    b'-', long.encode(), b'\xe7\x8c\xab' * 60, b'\x80' * 120):
		    r, w = os.pipe()
		    feed = subprocess.Popen(["sh", "-c", "for i in 1 2 3 4; do head -c 9000000; sleep 0.2; done;"
		        " cat"], stdin=open("s"), stdout=subprocess.PIPE)
		    p = subprocess.Popen([sys.executable, terminal, "raw", sys.executable, storm, "storm",
		        snap, "--status-fd=%d" % w, "save", "--", name], stdin=feed.stdout, pass_fds=[w],
		        stdout=open("screen", "wb"))
		    os.close(w)
		    feed.stdout.close()
		    status = os.fdopen(r, "rb").read()
		    p.wait()
		    feed.wait()
		    screen = open("screen", "rb").read()
		    assert p.returncode == 0, (name, screen)
		    want = name.decode("utf-8", "replace") if b"\xff" not in name and b"\x80" != name[:1] else \
		        name.decode("latin-1")
		    for l in status.splitlines():
		        got = json.loads(l)["image"]
		        assert got == want or (len(name) > 500 and want.startswith(got) and len(got) > 50) \
		            or (name[:1] == b"\x80" and set(got) == {"\x80"}), (name, got)
		        assert len(l) < 4096
		    for l in screen.splitlines():
		        assert l.startswith(b"qemu-snap: "), l
		    raw = open("raw", "rb").read()
		    assert b": save, memory" in raw
		    assert not set(raw) & set(range(32)) - {10, 13}, name
		    for l in raw.replace(b"\n", b"\r").split(b"\r"):
		        assert len(l) <= 79 or l.startswith(b"qemu-snap: "), (name, l)
		        if name == b'\xe7\x8c\xab' * 60:
		            l.decode()
	END
	python3 names.py "$SNAP" "$TOOLS/terminal.py" "$TOOLS/storm.py" >said 2>&1
	ended 0 $? "$(tail -n 1 said)"
}

# ---- the manual ----

test_the_manual_has_all_keys_and_phases() {
	mk s
	save i s
	serve -- --status-fd=3 --postcopy=5 load i 3>st
	"$SNAP" --status-fd=4 check i 4>>st >out
	"$SNAP" --status-fd=4 optimize i j 4>>st
	run_on s "$SNAP" --status-fd=3 save i 3>>st
	(head -c 30000 s) | "$SNAP" --status-fd=3 save i 3>>st 2>err
	python3 - st <<-'END' | sort -u >keys
		import json, sys
		def keys(v):
		    return set(v).union(*map(keys, v.values())) if isinstance(v, dict) else set()
		for l in open(sys.argv[1]):
		    v = json.loads(l)
		    print(*keys(v), v["phase"], sep="\n")
	END
	assertTrue "keys were found" "[ $(wc -l <keys) -ge 20 ]"
	sed -n '/^\.It Fl .-status-fd/,/^\.It Fl V/s/^\.\(It \)\{0,1\}Cm \([a-z0-9-]*\)[ ,]*.*/\2/p' \
		"$TOP/qemu-snap.1" | sort -u >manual
	assertEquals "not in the manual" "" "$(comm -23 keys manual)"
}

. "$shunit"
