#!/bin/sh
# export and import: what other programs get, read by a program of its own (tests/tools/mapped.py);
# what they give; files that lie, and what happens when it cannot be done.

. "$(dirname "$0")/lib.sh"

real_qemus export-roundtrip
setUp() { enter; }
tearDown() {
	leave
	tell_missing
}

odd='--block=pc.ram:5000 --block=a:1 --block=b:513 --block=c:100 --absent=10 --zerodata=5'

mapped() {
	python3 "$TOOLS/mapped.py" "$@" || fail "mapped.py $*"
}

# export FORM IMAGE FILE [OPTION...]: must work without a word.
export_to() {
	form=$1 from=$2 to=$3
	shift 3
	run "$SNAP" export --to="$form" "$from" "$to" "$@"
	expect 0 ""
	assertEquals "stdout" "" "$(cat out)"
}

import() {
	run "$SNAP" import --reproducible "$@"
	expect 0 ""
	assertEquals "stdout" "" "$(cat out)"
}

# each IMAGE STREAM: all forms of an image that holds the stream.
each() {
	rm -rf each && mkdir each
	export_to stream "$1" each/stream
	"$SNAP" load "$1" >each/loaded
	assertTrue "stream" "cmp each/stream each/loaded"
	export_to mapped-ram "$1" each/mapped
	mapped each/mapped >each/own
	mapped --make "$2" each/want
	mapped each/want >each/theirs
	assertEquals "mapped-ram" "$(cat each/theirs)" "$(cat each/own)"
	while read -r name length _ digest; do
		export_to raw "$1" each/raw --block="$name"
		assertEquals "length of $name" "$length" "$(size_of each/raw)"
		assertEquals "bytes of $name" "$digest  each/raw" "$(sha256sum each/raw)"
		rm each/raw
	done <each/theirs
	export_to raw "$1" each/raw
	export_to lime "$1" each/lime
	python3 - <<-'END' || fail "LiME"
		import struct
		raw, lime = open('each/raw', 'rb').read(), open('each/lime', 'rb').read()
		want = b''
		for a, b in (0, 640 << 10), (1 << 20, len(raw)):
		    want += struct.pack('<IIQQQ', 0x4C694D45, 1, a, b - 1, 0) + raw[a:b]
		assert lime == want
	END
}

test_export() {
	mk s --seed=3 $odd --shuffle
	save IMG s
	each IMG s
}

test_export_of_an_ordinary_migration() {
	mk s --seed=4 $odd --kind=ordinary --passes=2 --late-zero=10 --late-data=10
	save IMG s --unit-pages=1
	each IMG s
}

test_export_of_a_compressed_image_with_a_base() {
	needs_zstd || return 0
	mk s --seed=5 $odd
	mk t --seed=5 $odd --change=6:20
	save BASE s --compress=zstd
	save IMG t --compress=zstd --base=BASE
	each IMG t
	rm BASE
	run "$SNAP" export --to=raw IMG raw
	assertEquals "without its base" 1 "$status"
	assertContains "$(cat err)" "qemu-snap: "
	assertFalse "nothing is left" "[ -e raw ]"
}

test_pages_that_are_zero_take_no_room() {
	mk s --seed=6 --block=pc.ram:100000 --zero=99
	save IMG s
	for form in raw lime mapped-ram; do
		export_to $form IMG $form
		assertTrue "$form: $(allocated $form)" "[ $(allocated $form) -lt 60000000 ]"
		assertTrue "$form: $(size_of $form)" "[ $(size_of $form) -ge 409000000 ]"
	done
}

test_what_a_dead_export_left() {
	mk s --block=pc.ram:30
	save IMG s
	echo part >file.part.1-0
	run "$SNAP" export --to=raw IMG file
	expect 0 "qemu-snap: file.part.1-0: removed, a dead export left it"
	assertEquals "file" "$(echo file*)"
}

test_import() {
	for more in "" "--kind=ordinary" "--ignore-shared --kind=ordinary" "--uuid --page-bits" \
	    "--early --iterable=htab --kind=ordinary" "--json=0"; do
		mk s --seed=7 $odd $more
		save IMG s --reproducible
		import s IMG2
		assertTrue "a stream, $more" "cmp IMG IMG2"
		export_to stream IMG stream
		import --from=stream stream IMG3
		pages_of --rest=rest1 <s >pages1
		"$SNAP" load IMG3 >loaded
		pages_of --rest=rest2 <loaded >pages2
		assertTrue "a stream that was exported, $more" "cmp pages1 pages2"
		assertTrue "the rest of it, $more" "cmp rest1 rest2"
		export_to mapped-ram IMG mapped
		import --from=mapped-ram mapped IMG4
		"$SNAP" load IMG4 >loaded
		pages_of --rest=rest2 <loaded >pages2
		grep -v ' absent$' <pages1 >want1
		run "$SNAP" check IMG4
		assertEquals "check" 0 "$status"
		python3 - "$more" <<-'END' || fail "pages of a mapped-ram file, $more"
			import sys
			def pages(name):
			    return [line.split() for line in open(name)]
			one, two = ({tuple(w[:-1]): w[-1] for w in pages(n)} for n in ('pages1', 'pages2'))
			zero = {w for w in two.values() if w not in one.values()} | {'zero'}
			# A block that is all zero is taken for one that was left out.
			none = 'zero' if '--ignore-shared' in sys.argv[1] else None
			assert all(two.get(k, none) == v for k, v in one.items())
			assert all(two[k] in zero for k in two if k not in one)
		END
		assertTrue "the rest of a mapped-ram file, $more" "cmp rest1 rest2"
		rm mapped stream
	done
}

test_import_of_a_file_made_by_others() {
	mk s --seed=8 $odd
	mapped --make s theirs
	import theirs IMG
	each IMG s
	mapped --make s theirs word=512		# MULTIFD_FLUSH
	import theirs IMG
	each IMG s
	mapped --make s theirs shared=1
	import theirs IMG --cache=none
	export_to mapped-ram IMG own
	run "$SNAP" info IMG
	assertContains "$(cat out)" "precopy only: saved with x-ignore-shared"
}

test_import_with_a_base_and_compressed() {
	needs_zstd || return 0
	mk s --seed=9 $odd
	mk t --seed=9 $odd --change=1:10
	save BASE s
	mapped --make t theirs
	import theirs IMG --base=BASE --compress=zstd
	each IMG t
	assertTrue "small" "[ $(size_of IMG) -lt $(($(size_of BASE) / 3)) ]"
}

# lies MESSAGE KEY=VALUE...: refused, nothing left.
lies() {
	message=$1
	shift
	mapped --make s theirs "$@"
	run "$SNAP" import theirs IMG
	expect 2 "qemu-snap: theirs: offset $message"
	assertFalse "an image" "[ -e IMG ]"
	rm theirs
}

test_files_that_lie() {
	mk s --seed=1 --block=pc.ram:5000 --block=b:10
	lies "141: RAM block pc.ram: lies at no possible place" bitmap=-40
	lies "141: RAM block pc.ram: lies at no possible place" bitmap=9223372036854775807
	lies "141: RAM block pc.ram: lies at no possible place" bitmap=1048000
	lies "141: RAM block pc.ram: lies at no possible place" pages=-1048576
	lies "141: RAM block pc.ram: lies at no possible place" pages=9223372036854775807
	lies "141: mapped-ram of version 2, not 1" version=2
	lies "141: mapped-ram: pages have 8192 bytes, not 4096; see --page-size" page_size=8192
	lies "141: RAM block pc.ram: lies at no possible place" pages=9223372036832051200
	lies "21528576: stream ends before its RAM does: cut, failed or cancelled" cut=20971520
	lies "1099533156352: stream ends before its RAM does: cut, failed or cancelled" pages=1099511627776
	lies "22061082: section ram: a page that is not in its place" word=2
	lies "22061082: section ram: a page that is not in its place" word=8
	lies "22061082: section ram: HOOK: RDMA cannot be stored" word=128
	run "$SNAP" import --from=mapped-ram s IMG
	expect 2 "qemu-snap: s: is a stream without mapped-ram"
	mapped --make s theirs
	run "$SNAP" import --from=stream theirs IMG
	expect 2 "qemu-snap: theirs: is a file with mapped-ram"
	# Through a pipe it cannot be.
	run_on theirs "$SNAP" save IMG
	assertEquals 2 "$status"
	assertContains "$(cat err)" "capability mapped-ram is on: switch it off"
	assertEquals "files left" "err
out
s
theirs" "$(ls -A)"
}

test_import_of_what_is_no_stream() {
	for bad in cut:1000000 cut:30 xbzrle; do
		case $bad in
		cut:*) mk s --seed=1 --cut="${bad#cut:}" ;;
		*) mk s --seed=1 --bad=$bad ;;
		esac
		run "$SNAP" import s IMG
		assertEquals "$bad" 2 "$status"
		assertEquals "$bad: one message: $(cat err)" 1 "$(wc -l <err)"
		assertContains "$(cat err)" "qemu-snap: s: offset "
	done
	: >empty
	run "$SNAP" import empty IMG
	expect 2 "qemu-snap: empty: not a migration stream: an empty file"
	run "$SNAP" import . IMG
	expect 1 "qemu-snap: .: Is a directory"
	run "$SNAP" import missing IMG
	expect 1 "qemu-snap: missing: No such file or directory"
	assertFalse "no image" "[ -e IMG ]"
}

test_what_is_there_is_not_replaced() {
	mk s --seed=1 --block=pc.ram:300
	save IMG s
	echo precious >file
	for form in stream mapped-ram raw lime; do
		run "$SNAP" export --to=$form IMG file
		expect 1 "qemu-snap: file: is there and is not replaced"
		run "$SNAP" export --to=$form IMG IMG
		expect 1 "qemu-snap: IMG: is there and is not replaced"
		run "$SNAP" export --to=$form IMG .
		expect 1 "qemu-snap: .: is there and is not replaced"
		run "$SNAP" export --to=$form IMG none/x
		assertEquals 1 "$status"
		: >empty
		export_to $form IMG empty
		assertTrue "not empty any more" "[ -s empty ]"
		rm empty
	done
	assertEquals "precious" "$(cat file)"
	run "$SNAP" export --to=raw IMG IMG/x
	expect 1 "qemu-snap: IMG/x: cannot be created: Not a directory"
	run "$SNAP" export --to=raw IMG ""
	expect 1 "qemu-snap: : cannot be created: No such file or directory"
	mkfifo pipe
	run "$SNAP" export --to=raw IMG pipe
	expect 1 "qemu-snap: pipe: is there and is not replaced"
	run "$SNAP" import pipe IMG2
	expect 1 "qemu-snap: pipe: not a regular file"
	rm pipe
	ln -s nowhere link
	run "$SNAP" export --to=raw IMG link
	expect 1 "qemu-snap: link: cannot be created: File exists"
	ln -s loop loop
	run "$SNAP" export --to=raw IMG loop
	assertEquals 1 "$status"
	assertContains "$(cat err)" "qemu-snap: loop: is there, cannot be read, and is not replaced: "
	rm loop
	assertEquals "files left" "IMG
err
file
link
out
s" "$(ls -A)"
}

test_what_cannot_be_exported() {
	mk s --seed=1 --block=pc.ram:300
	save IMG s
	run "$SNAP" export --to=raw --block=x IMG raw
	expect 1 "qemu-snap: IMG: has no block x; info tells those it has, and --block chooses"
	mk s --seed=1 --block=mach-virt.ram:300 --machine=virt-7.2
	save IMG2 s
	run "$SNAP" export --to=raw IMG2 raw
	expect 1 "qemu-snap: IMG2: has no block pc.ram; info tells those it has, and --block chooses"
	run "$SNAP" export --to=lime --block=mach-virt.ram IMG2 lime
	expect 1 "qemu-snap: IMG2: where machine virt-7.2 has its memory is not known: no LiME file"
	mk s --seed=1 --block=pc.ram:100
	save IMG3 s
	run "$SNAP" export --to=lime IMG3 lime
	expect 1 "qemu-snap: IMG3: less than 1 MiB of memory: no LiME file"
	assertEquals "files left" "IMG
IMG2
IMG3
err
out
s" "$(ls -A)"
}

# What comes before the pages may be longer than what is written at once.
test_a_long_list_of_what_is_plugged() {
	mk t --seed=2 --block=pc.ram:300 --early
	python3 - <<-'END'
		import struct
		b = open('t', 'rb').read()
		at = b.index(b'virtio-mem-device-early') + 23 + 8
		n, size = struct.unpack_from('>QQ', b, at + 8)
		end = at + 36 + (n // size + 63) // 64 * 8
		long = b[at:at + 8] + struct.pack('>Q', size << 21) + b[at + 16:at + 36] + b'\xa5' * (1 << 18)
		open('s', 'wb').write(b[:at] + long + b[end:])
	END
	save IMG s --reproducible
	export_to stream IMG stream
	export_to mapped-ram IMG mapped
	import stream IMG2
	assertTrue "as a stream" "cmp IMG IMG2"
	import mapped IMG3
	"$SNAP" load IMG3 >loaded
	pages_of --rest=rest1 <s >pages1
	pages_of --rest=rest2 <loaded >pages2
	assertTrue "pages" "cmp pages1 pages2"
	assertTrue "the rest" "cmp rest1 rest2"
}

# Nothing is written behind a bitmap that ends just before the pages, which are few.
test_a_bitmap_before_a_boundary() {
	mk t --seed=2 --page-size=1024 --page-bits --block=a:1023 --block=pc.ram:1 --zero=0 --json=0 \
		--devices=1 --kind=ordinary
	# What follows is to be short, too: most of the device's bytes are left out.
	python3 -c "b = open('t', 'rb').read(); open('s', 'wb').write(b[:-4006] + b[-6:])"
	save IMG s --reproducible
	export_to mapped-ram IMG mapped
	import mapped IMG2
	assertTrue "the same" "cmp IMG IMG2"
}

test_pages_of_all_sizes() {
	for size in 1024 2048 4096 16384 65536; do
		mk s --seed=$size --page-size=$size --block=pc.ram:1500 --block=b:9 --kind=ordinary --absent=0
		save IMG s --reproducible --page-size=$size
		export_to mapped-ram IMG mapped
		import mapped IMG2 --page-size=$size
		for image in IMG IMG2; do
			"$SNAP" load $image | pages_of --page-size=$size >$image.pages
		done
		assertTrue "$size" "cmp IMG.pages IMG2.pages"
		export_to raw IMG raw
		export_to lime IMG lime
		assertEquals "$size: LiME" "$(tail -c +1048577 raw | sha256sum)" \
			"$(tail -c +655425 lime | sha256sum)"
		rm mapped raw lime
	done
}

test_bits_behind_the_last_page() {
	mk s --seed=8 $odd
	mapped --make s one
	mapped --make s two tail_bits=1
	assertFalse "not the same" "cmp -s one two"
	import one IMG
	import two IMG2
	assertTrue "the same pages" "cmp IMG IMG2"
}

# Of such a file QEMU made no image; neither may this.
test_a_background_snapshot_without_pages() {
	mk s --seed=1 --block=pc.ram:300
	mapped --make s theirs background=1
	run "$SNAP" import theirs IMG
	expect 2 "qemu-snap: theirs: has no pages: of a background snapshot QEMU writes none with mapped-ram"
	assertFalse "no image" "[ -e IMG ]"
}

# Pages that were left out are not there, rather than zero: QEMU refuses to load them, and a file
# that is nothing but zero would be taken for memory.
test_shared_memory_that_is_not_there() {
	mk s --seed=8 --block=pc.ram:300 --block=b:20 --zero=50
	mapped --make s theirs shared=1 omit=1
	import theirs IMG
	"$SNAP" load IMG >loaded
	pages_of <loaded >pages
	assertEquals "pages of pc.ram" "" "$(grep '^pc.ram' pages | grep -v absent)"
	assertEquals "pages of b" 20 "$(grep '^b ' pages | grep -vc absent)"
	export_to mapped-ram IMG mapped
	import mapped IMG2
	assertTrue "and again" "cmp IMG IMG2"
	for form in raw lime; do
		run "$SNAP" export --to=$form IMG file
		expect 1 "qemu-snap: IMG: has no page of block pc.ram: x-ignore-shared left it out"
		assertFalse "$form: a file" "[ -e file ]"
	done
	export_to raw IMG b --block=b
	assertEquals 81920 "$(size_of b)"
}

test_what_comes_meanwhile_is_not_replaced() {
	mk s --seed=1 --block=pc.ram:20000 --zero=0
	save IMG s
	SNAP_FAULT='pread:*:delay:20000' "$TOOLS/qemu-snap-fault" export --to=raw IMG file 2>err &
	pid=$!
	wait_for 10 sh -c 'ls file.part.*' >/dev/null 2>&1 || fail "no file"
	echo precious >file
	wait $pid
	assertEquals 1 $?
	assertEquals "qemu-snap: file: is there and is not replaced" "$(cat err)"
	assertEquals "precious" "$(cat file)"
	assertEquals "left" "file" "$(ls -A | grep file)"
}

# Where QEMU has more than 976 GiB behind the hole depends on the processor. A page at either end.
test_lime_of_much_memory() {
	for gib in 978 979; do
		python3 - $gib >s <<-'END'
			import struct, sys
			size, q = int(sys.argv[1]) << 30, struct.Struct('>Q').pack
			name, foot = b'\6pc.ram', q(16) + b'\x7e\0\0\0\1'
			s = b'QEVM\0\0\0\3\7\0\0\0\x0bpc-q35-10.0\1\0\0\0\1\3ram\0\0\0\0\0\0\0\4'
			s += q(size | 4) + name + q(size) + foot + b'\2\0\0\0\1'
			for at in 0, size - 4096:
			    s += q(at | 8) + name + b'p' * 4096
			s += foot + b'\4\0\0\0\2\1d\0\0\0\0\0\0\0\1x\x7e\0\0\0\2\0'
			sys.stdout.buffer.write(s)
		END
		run_on s "$SNAP" save IMG	# which may fear for the room there is
		assertEquals "save: $(cat err)" 0 "$status"
		run "$SNAP" export --to=lime IMG lime
		if [ $gib -eq 978 ]; then
			expect 0 ""
			assertEquals $(((gib << 30) - (384 << 10) + 96)) "$(size_of lime)"
			assertEquals "pppp" "$(tail -c 4 lime)"
			rm lime
		else
			expect 1 "qemu-snap: IMG: where so much memory lies is not known: no LiME file"
		fi
	done
}

# A damaged page is not exported: no file, exit status 2.
test_damage() {
	mk s --seed=1 --block=pc.ram:3000
	save IMG s
	poke IMG 5000000 377
	for form in stream mapped-ram raw lime; do
		run "$SNAP" export --to=$form IMG file
		assertEquals "$form" 2 "$status"
		assertContains "$(cat err)" "page fails its checksum"
		assertFalse "$form: a file" "[ -e file ]"
	done
	assertEquals "no part is left" "" "$(ls -A | grep part)"
}

test_a_full_disk_and_a_signal() {
	mk s --seed=1 --block=pc.ram:20000 --zero=0
	save IMG s
	for form in stream mapped-ram raw lime; do
		run sh -c 'ulimit -f 40000; "$1" export --to="$2" IMG file' x "$SNAP" $form
		assertEquals "$form: $(cat err)" 1 "$status"
		assertEquals "$form: one message: $(cat err)" 1 "$(wc -l <err)"
		assertContains "$(cat err)" "qemu-snap: file: write"
		assertContains "$(cat err)" "File too large"
		assertEquals "$form: left" "" "$(ls -A | grep file)"
		SNAP_FAULT='pread:*:delay:20000' "$TOOLS/qemu-snap-fault" export --to=$form IMG file &
		pid=$!
		wait_for 10 sh -c 'ls file.part.*' >/dev/null 2>&1 || fail "$form: no file"
		kill -TERM $pid
		wait $pid
		assertEquals "$form: ended by the signal" 143 $?
		assertEquals "$form: left" "" "$(ls -A | grep file)"
	done
}

test_mapped_ram_and_streams_with_real_qemus() {
	scenario
}

test_lime_of_a_real_linux() {
	on_qemus "$installed" "$TESTS/lime-roundtrip"
}

. "$shunit"
