#!/bin/sh
# info: every fact against a computation of its own, which is the second reader's; and what it says
# where less can be told: odd and hostile descriptions, damage, cut files, files of other kinds. The
# label, which info shows.

. "$(dirname "$0")/lib.sh"

# true_facts IMAGE: what info --json says is what the second reader finds.
true_facts() {
	run "$SNAP" info --json "$1"
	expect 0 ""
	mv out json
	python3 "$TESTS/readimg.py" facts "$1" >facts || fail "second reader: $1"
	python3 - <<-'END'
		import json
		said, found = json.load(open("json")), json.load(open("facts"))
		for key in found:
		    if said[key] != found[key]:
		        print(key, said[key], found[key])
		for key in "stored", "ancestor", "zero", "absent":
		    assert said["pages"][key] == sum(b[key] for b in said["blocks"]), key
		assert said["complete"] is True and said["readable"] is True
	END
	assertEquals "$1" 0 $?
}

# The same for the form for people: a line with just these words is there.
has_line() {
	tr -s ' ' <out | grep -Fqx -- "$1" || fail "no line '$1': $(cat out)"
}

facts_agree() {
	true_facts "$1" >differ
	assertEquals "$1" "" "$(cat differ)"
}

# wide BLOCK:PAGES... BLOCK:PAGE=BYTE...: an image i of a guest with so many pages of 4 KiB that a
# list of them would take long; without BYTE the page is zero.
wide() {
	python3 - "$@" >s <<-'END'
		import struct, sys
		def name(s):
		    return bytes([len(s)]) + s.encode()
		word = lambda v: struct.pack(">Q", v)
		blocks = [a.split(":") for a in sys.argv[1:] if "=" not in a]
		foot = b"\x7e\0\0\0\1"
		out = (b"QEVM\0\0\0\3\7\0\0\0\4none\5" + name("configuration/target-page-bits") +
		       struct.pack(">II", 1, 12) + b"\1\0\0\0\1" + name("ram") + struct.pack(">II", 0, 4) +
		       word(sum(int(n) for _, n in blocks) * 4096 | 4) +
		       b"".join(name(b) + word(int(n) * 4096) for b, n in blocks) + word(16) + foot +
		       b"\2\0\0\0\1")
		for a in sys.argv[1:]:
		    if "=" in a:
		        at, byte = a.split("=")
		        block, page = at.split(":")
		        out += word(int(page) * 4096 | (8 if byte else 2)) + name(block)
		        out += byte.encode() * 4096 if byte else b"\0"
		out += (word(16) + foot + b"\4\0\0\0\7" + name("d") + struct.pack(">II", 0, 1) +
		        b"\1\2\3\4\x7e\0\0\0\7\0")
		sys.stdout.buffer.write(out)
	END
	run_on s "$SNAP" save i		# it warns of the room there is
	assertEquals "$(cat err)" 0 "$status"
}

test_facts_of_images_of_all_shapes() {
	mk s --block=pc.ram:20000 --block=b:9 --block=c:9000 --zero=30 --absent=20 --devices=20
	save i s --label=hello
	facts_agree i
	assertEquals "description" '"good"' "$(sed -n 's/.*"description": \(.*\),/\1/p' json)"
	run "$SNAP" info i
	has_line "label hello"
	has_line "machine pc-i440fx-7.2"
	mk s --block=a:300 --page-size=1024 --page-bits --json=0 --devices=1 --absent=20
	save j s --unit-pages=1
	facts_agree j
	assertContains "$(cat json)" '"description": "missing"'
	run "$SNAP" info j
	has_line "devices not told: no description came with them"
	# A whole node of pages is absent, another zero; blocks begin and end within leaves.
	wide a:5 b:8192 c:16390 d:268435456 e:1 a:0=A b:0= b:8191=B c:3=C c:16000= d:268435455= e:0=E
	facts_agree i
	assertContains "$(tr -d ' \n' <json)" \
		'"id":"d","length":1099511627776,"stored":0,"ancestor":0,"zero":1,'
	assertContains "$(cat json)" '"machine": "none"'
}

test_facts_of_a_coded_image_with_a_base() {
	needs_zstd || return 0
	mk s --block=a:9000 --block=b:100 --zero=10
	mk t --block=a:9000 --block=b:100 --zero=10 --change=3:20
	save b s --compress=zstd
	save i t --compress=zstd --base=b --label=second
	facts_agree b
	facts_agree i
	assertTrue "pages in the base" "grep -q '\"ancestor\": [1-9]' json"
	assertTrue "compressed" "grep -q '\"compression-ratio\": 0\\.' json"
}

# The numbers in the lines for people are those for programs.
test_lines_for_people() {
	python3 "$TOOLS/pagestream.py" 4096 'm:10,n:6' 0=x1 1=x2 2=z 10=r3 >s
	save i s
	run "$SNAP" info i
	has_line "guest RAM 64.0 KiB (65536 bytes)"
	has_line "page data 12.0 KiB (12288 bytes), 100.0 % of the pages stored"
	has_line "pages 16: 3 stored, 1 zero, 12 absent"
	has_line " 40960 2 0 1 7 m"
	has_line " 24576 1 0 0 5 n"
	has_line "file $(size_of i | awk '{ printf "%.1f KiB (%d bytes), %.1f", $1 / 1024, $1,
		$1 * 100 / 65536 }') % of guest RAM"
}

test_the_hot_list_it_would_use() {
	python3 "$TOOLS/pagestream.py" 4096 m:10 0=x1 1=x2 2=x3 >s
	save i s
	python3 "$TOOLS/hotlist.py" make i.hot i 1 2
	run "$SNAP" info --json i
	expect 0 ""
	assertContains "$(cat out)" '"hot-list": {"where": "beside", "pages": 2}'
	assertContains "$(cat out)" '"hot-pages": 0'
	run "$SNAP" info i
	has_line "hot list 2 pages, beside the image"
	run "$SNAP" optimize i n
	expect 0 ""
	run "$SNAP" info --json n
	assertContains "$(cat out)" '"hot-list": {"where": "embedded", "pages": 2}'
	assertContains "$(cat out)" '"hot-pages": 2'
	run "$SNAP" info n
	has_line "hot list 2 pages, in the image"
	printf x >i.hot
	run "$SNAP" info --json i
	expect 0 "qemu-snap: i.hot: impossible length of a hot list: not used"
	assertContains "$(cat out)" '"hot-list": null'
}

test_what_is_not_for_postcopy() {
	mk s --kind=ordinary --ignore-shared --block=a:10
	save i s
	run "$SNAP" info i
	has_line "loads in precopy only: saved with x-ignore-shared"
	facts_agree i
}

# ---- descriptions ----

test_odd_and_hostile_descriptions() {
	mk s --json=0 --devices=2 --block=a:3
	save i s
	python3 "$TOOLS/describe.py" "$TESTS" s i >kinds || fail "describe.py"
	assertTrue "kinds" "[ $(wc -l <kinds) -gt 200 ]"
	while read -r kind said words; do
		[ -f "$kind.i" ] || save "$kind.i" "$kind.s"
		set --
		[ "$(size_of "$kind.i")" -lt 500000 ] || set -- python3 "$TOOLS/peak.py" peak
		run "$@" "$SNAP" info --json "$kind.i"
		[ $# -eq 0 ] || [ "${SANITIZED-}" ] || assertTrue "$kind: $(cat peak) KiB" "[ $(cat peak) -lt 32000 ]"
		assertEquals "$kind: $(cat err)" 0 "$status"
		assertContains "$kind" "$(cat out)" "\"description\": \"$said\""
		run "$SNAP" info "$kind.i"
		expect 0 ""
		case $said in
		good)
			assertEquals "$kind" "${words:-0}" \
				"$(sed '1,/^devices  /d' out | wc -l | tr -d ' ')"
			case $words in
			65536) ;;
			*) [ "$kind" = huge-number ] ||	# python takes none of that length
				facts_agree "$kind.i" ;;
			esac
			;;
		missing) has_line "devices not told: no description came with them" ;;
		damaged) assertContains "$kind" "$(tail -n 1 out)" \
			"devices        not told: their description is damaged: $words" ;;
		esac
		rm -f "$kind.i" "$kind.s"
	done <kinds
}

# Where the section is damaged, nothing of it is told, the rest is, and the exit status is 2.
test_damage_takes_nothing_from_the_rest() {
	mk s --block=a:100 --zero=40
	save i s --label=hello
	python3 - "$TESTS" <<-'END' >places
		import sys
		sys.path.insert(0, sys.argv[1])
		sys.dont_write_bytecode = True
		import readimg
		s = readimg.Image("i").sections
		for name, type in (("leaves", 3), ("preamble", 16), ("tail", 20), ("label", 22)):
		    print(name, s[type].offset + s[type].length - 2)
	END
	cp i good
	while read -r what at; do
		cp good i
		poke i "$at" 377
		run "$SNAP" info --json i
		assertEquals "$what" 2 "$status"
		assertEquals "$what: one message" 1 "$(wc -l <err)"
		cp out json
		python3 - "$what" <<-'END'
			import json, sys
			d = json.load(open("json"))
			what = sys.argv[1]
			assert (d["label"] == "hello") == (what != "label")
			assert (d["machine"] == "pc-i440fx-7.2") == (what != "preamble")
			assert (d["devices"] is not None) == (what != "tail")
			assert (d["blocks"][0]["stored"] is not None) == (what != "leaves")
			assert d["pages"]["total"] == 100
		END
		assertEquals "$what" 0 $?
		run "$SNAP" info i
		assertEquals "$what" 2 "$status"
		[ "$what" != leaves ] || has_line " 409600 ? ? ? ? a"
		[ "$what" != tail ] || has_line "devices not told: their section is damaged"
	done <places
}

# ---- labels ----

# A label of all bytes but zero, quotes and what is not UTF-8 among them.
odd_label() {
	python3 -c 'import sys
sys.stdout.buffer.write(bytes(range(1, 256)) + b"\\\"\xc3\xa9" * 10 + b"x" * '"$1"')'
}

test_odd_labels() {
	mk s
	while read -r more; do
		label=$(odd_label "$more"; printf .)
		save i s "--label=${label%.}"
		facts_agree i
		second_reader i
		run "$SNAP" info i
		assertFalse "no control bytes" "tr -d '\n' <out | grep -q '[[:cntrl:]]'"
	done <<-END
		0
		$((4096 - 255 - 40))
	END
	assertEquals "4096 bytes" 4096 "$(printf %s "${label%.}" | wc -c | tr -d ' ')"
	run_on s "$SNAP" "--label=$label" save j
	expect 1 "qemu-snap: --label: longer than 4096 bytes"
	assertFalse "no image" "[ -e j ]"
	save i s --label=
	facts_agree i
	assertContains "$(cat json)" '"label": null'
}

test_labels_through_optimize() {
	mk s
	save i s --label="one 'label'"
	for word in "" --label=other --label=; do
		run "$SNAP" $word optimize i n
		expect 0 ""
		facts_agree n
		case $word in
		"") want='"one '"'label'"'"' ;;
		*other) want='"other"' ;;
		*) want=null ;;
		esac
		assertEquals "$word" "$want" "$(sed -n 's/.*"label": \(.*\),/\1/p' json)"
	done
	# It is part of the content.
	save a s --reproducible --label=x
	save b s --reproducible --label=x
	save c s --reproducible --label=y
	assertTrue "the same" "cmp a b"
	assertFalse "another" "cmp -s a c"
}

# with_section IMAGE TYPE BYTES NEW: a section before the tail, made right.
with_section() {
	python3 - "$TESTS" "$@" <<-'END'
		import struct, sys
		sys.path.insert(0, sys.argv[1])
		sys.dont_write_bytecode = True
		from readimg import crc32c
		b = open(sys.argv[2], "rb").read()
		extra = eval(sys.argv[4])
		foot = bytearray(b[-4096:])
		n, = struct.unpack_from("<I", foot, 104)
		tail = foot[112 + 32 * (n - 1):112 + 32 * n]
		off, = struct.unpack_from("<Q", tail, 8)
		struct.pack_into("<IIQQQ", foot, 112 + 32 * (n - 1), int(sys.argv[3]), crc32c(extra), off,
		    len(extra), 0)
		struct.pack_into("<Q", tail, 8, off + len(extra))
		foot[112 + 32 * n:112 + 32 * (n + 1)] = tail
		struct.pack_into("<I", foot, 104, n + 1)
		struct.pack_into("<Q", foot, 16, len(b) + len(extra))
		struct.pack_into("<I", foot, 4092, crc32c(bytes(foot[:4092])))
		open(sys.argv[5], "wb").write(b[:off] + extra + b[off:-4096] + foot)
	END
	assertEquals "section $2" 0 $?
}

# What is no label by format.md is none for both readers, and no damage.
test_labels_that_are_none() {
	mk s
	save i s
	for bytes in 'b"a\0b"' 'b"\0"' 'b"x" * 4097' 'b"x" * (17 << 20)' 'b""'; do
		with_section i 22 "$bytes" j
		facts_agree j
		assertContains "$bytes" "$(cat json)" '"label": null'
		holds_stream j s
		run "$SNAP" optimize j n
		expect 0 ""
		facts_agree n
	done
}

# The same for disks; those of a long section would not even be read. What is one stays one.
test_disks_that_are_none() {
	mk s
	save i s
	head='struct.pack("<II", 1, 1)'
	for bytes in 'b""' 'bytes(7)' 'bytes(9)' 'struct.pack("<II", 2, 0)' 'struct.pack("<II", 0, 257)' \
		"$head" "$head + bytes(7)" "$head + b'\\1\\0' + bytes(7)" \
		"$head + b'\\0\\1' + b'n' * 256 + bytes(6)" "$head + bytes(4) + b'\\x20\\0' + b'f' * 32 + bytes(2)" \
		"$head + b'\\0\\x10' + b'f' * 4096 + bytes(6)" "$head + bytes(6) + b'\\1\\0'" \
		'bytes(8) + bytes(17 << 20)'; do
		with_section i 24 "$bytes" j
		facts_agree j
		assertContains "$bytes" "$(cat json)" '"disks": []'
		run "$SNAP" optimize j n
		expect 0 ""
		facts_agree n
	done
	with_section i 24 "(struct.pack('<II', 0, 256) +
	    (b'\\377\\0' + b'n' * 255 + (b'\\377\\17' + b'f' * 4095 + b'\\37\\0' + b'q' * 31) * 2)[:-33] * 256)" j
	facts_agree j
	assertEquals 256 "$(grep -c '"format"' json)"
	run "$SNAP" optimize j n
	expect 0 ""
	facts_agree n
	assertEquals 256 "$(grep -c '"format"' json)"
}

# Such a section may tell of places, or of the UUID: a lie in the new image.
test_optimize_leaves_out_what_it_does_not_know() {
	mk s
	save i s --label=kept
	with_section i 77 'b"x" * 100' j
	holds_stream j s
	facts_agree j
	run "$SNAP" optimize j n
	expect 0 "qemu-snap: j: section of type 77: not known, and left out"
	facts_agree n
	assertContains "$(cat json)" '"label": "kept"'
	holds_stream n s
}

# ---- what is no image, or none any more ----

test_files_of_other_kinds() {
	: >empty
	printf 'QFI\373\0\0\0\3' >qcow2
	head -c 10000 /dev/zero >>qcow2
	echo text | gzip >gzip
	printf '(\265/\375\4\0' >zstd
	printf '\3757zXZ\0\0' >xz
	python3 "$TOOLS/pagestream.py" 4096 m:10 0=x1 >stream
	save i stream
	python3 "$TOOLS/hotlist.py" make hot i 0
	printf 'EMiL\1\0\0\0' >lime
	printf 'LibvirtQemudSave\2\0\0\0' >libvirt
	printf 'LibvirtQemudPart\2\0\0\0' >part
	printf '\177ELF\2' >elf
	printf 'QFI' >short
	python3 - <<-'END'
		import struct
		def name(s):
		    return bytes([len(s)]) + s
		head = b"QEVM\0\0\0\3\7" + struct.pack(">I", 4) + b"q35x"
		bits = b"\5" + name(b"configuration/target-page-bits") + struct.pack(">II", 1, 12)
		def caps(*names):
		    return (b"\5" + name(b"configuration/capabilities") +
		            struct.pack(">II", 1, len(names)) + b"".join(map(name, names)))
		write = lambda f, b: open(f, "wb").write(b)
		write("mapped", head + bits + caps(b"x-ignore-shared", b"mapped-ram") + b"\1" * 9000)
		write("plain", head + bits + caps(b"x-ignore-shared") + b"\1" * 9000)
		write("hostile", head + b"\5" + name(b"configuration/capabilities") + b"\0\0\0\1\xff\xff\xff\xff" +
		      b"\0" * 9000)
	END
	cp mapped cutmapped
	truncate -s 120 mapped
	truncate -s 60 cutmapped
	while read -r file words; do
		for verb in info "info --json" check load; do
			run "$SNAP" $verb $file
			[ "$verb" = load ] || assertEquals "" "$(cat out)"
			expect 2 "qemu-snap: $file: not a qemu-snap image: $words"
		done
	done <<-'END'
		empty an empty file
		qcow2 a qcow2 disk image
		gzip a file compressed with gzip
		zstd a file compressed with zstd
		xz a file compressed with xz
		stream a QEMU migration stream as it is
		plain a QEMU migration stream as it is
		hostile a QEMU migration stream as it is
		cutmapped a QEMU migration stream as it is
		mapped a QEMU migration stream of the form mapped-ram
		hot a hot list
		lime a LiME memory dump
		libvirt a file that libvirt saved
		part a file that libvirt did not save to its end
		elf an ELF file
	END
	run "$SNAP" info short
	expect 2 "qemu-snap: short: too short for a qemu-snap image"
}

# Of a cut image its header is told; of one whose features are not known, no more than is certain.
test_less_than_an_image() {
	mk s --block=a:100
	save i s
	for n in 4096 5000 8192 100000 $(($(size_of i) - 1)); do
		head -c "$n" i >cut
		run "$SNAP" info cut
		assertEquals "$n" 2 "$status"
		assertContains "$n" "$(cat err)" "no footer: an interrupted save or a cut copy"
		has_line "complete no"
		has_line "page size 4096 bytes"
		run "$SNAP" info --json cut
		assertEquals "$n" 2 "$status"
		assertEquals "$n" "None False False 4096 none $n" "$(python3 -c '
import json
d = json.load(open("out"))
print(d["uuid"], d["complete"], d["readable"], d["page-size"], d["codec"], d["file-size"])')"
	done
	head -c 100 i >cut
	run "$SNAP" info cut
	expect 2 "qemu-snap: cut: shorter than a header: an interrupted save or a cut copy"
	python3 - "$TESTS" <<-'END'
		import struct, sys
		sys.path.insert(0, sys.argv[1])
		sys.dont_write_bytecode = True
		from readimg import crc32c
		b = bytearray(open("i", "rb").read())
		struct.pack_into("<Q", b, 16, 1 << 7)
		struct.pack_into("<I", b, 4092, crc32c(bytes(b[:4092])))
		struct.pack_into("<I", b, len(b) - 3996, crc32c(bytes(b[:4092])))
		struct.pack_into("<I", b, len(b) - 4, crc32c(bytes(b[-4096:-4])))
		open("later", "wb").write(b)
	END
	run "$SNAP" info later
	expect 2 "qemu-snap: later: needs features this version does not know: 0x80"
	has_line "complete yes"
	has_line "$("$SNAP" info i | grep ^UUID | tr -s ' ')"
	assertNotContains "$(cat out)" "page size"
	run "$SNAP" info --json later
	expect 2 "qemu-snap: later: needs features this version does not know: 0x80"
	assertEquals "True False None" "$(python3 -c '
import json
d = json.load(open("out"))
print(d["complete"], d["readable"], d.get("page-size"))')"
}

# A program without zstd tells all of a compressed image, and that it cannot read it.
test_without_zstd() {
	needs_zstd || return 0
	mk s --block=a:1000
	save i s --compress=zstd --label=x
	"$SNAP" info --json i >want
	mkdir copy
	cp "$TOP"/*.c "$TOP"/*.h "$TOP/Makefile" copy
	(cd copy && make -s ZSTD=0 CC="$(command -v tcc || echo 'c99 -O0')" qemu-snap) ||
		fail "build"
	run copy/qemu-snap info --json i
	expect 2 "qemu-snap: i: compressed with zstd, which this qemu-snap was built without"
	assertEquals "$(sed 's/"readable": true/"readable": false/' want)" "$(cat out)"
}

# Not more memory for a guest of 4 TiB, nor reads of what is not there.
test_a_huge_guest() {
	# Some 20 MB of leaves, if all were kept.
	wide a:1073741824 b:1000 a:0=A a:100000000= b:0=B \
		$(awk 'BEGIN { for (i = 1; i < 10000; i++) print "a:" i * 8192 + 5 "=" }')
	run python3 "$TOOLS/peak.py" peak "$SNAP" info --json i
	expect 0 ""
	[ "${SANITIZED-}" ] || assertTrue "$(cat peak) KiB" "[ $(cat peak) -lt 16000 ]"
	assertContains "$(cat out)" '"stored": 1, "ancestor": 0, "zero": 10000, "absent": 1073731823}'
	assertContains "$(cat out)" '"stored": 1, "ancestor": 0, "zero": 0, "absent": 999}'
}

# ---- QEMU ----

# migrated SETTING URI QEMU ARG...: a guest that stands still goes to the URI.
migrated() {
	setting=$1 uri=$2
	shift 2
	rm -f monitor said
	mkfifo monitor
	"$@" -S -display none -nodefaults -machine pc -m 32 -monitor stdio <monitor >said 2>&1 &
	vm=$!
	exec 9>monitor
	echo "$setting" >&9
	echo "migrate -d \"$uri\"" >&9
	wait_for 60 sh -c 'echo info migrate >&9; grep -q "status: completed" said' || fail "$(cat said)"
	echo quit >&9
	exec 9>&-
	wait $vm
}

# taken_by QEMU: a guest with some devices, saved by an ordinary migration; names, instances and
# versions are those in QEMU's own description.
taken_by() {
	rm -f stream i
	migrated "migrate_set_parameter max-bandwidth 100G" "exec:cat >$PWD/stream" \
		"$1" -device VGA -device e1000 -device virtio-rng-pci
	save i stream
	facts_agree i
	python3 - <<-'END'
		import json
		d = json.load(open("json"))
		assert len(d["devices"]) > 20, d["devices"]
		names = {x["name"].split("/")[-1] for x in d["devices"]}
		assert {"timer", "fw_cfg", "e1000", "vga"} <= names, names
		assert d["machine"].startswith("pc-i440fx-"), d["machine"]
		assert any(x["version"] for x in d["devices"])
	END
	assertEquals "$1" 0 $?
}

# A file that QEMU 9 and later writes with mapped-ram is known by its capabilities.
mapped_by() {
	migrated "migrate_set_capability mapped-ram on" "file:$PWD/mapped" "$1"
	run "$SNAP" info mapped
	expect 2 "qemu-snap: mapped: not a qemu-snap image: a QEMU migration stream of the form mapped-ram"
}

test_devices_of_real_guests() {
	find_qemus
	missing=
	[ -z "$installed" ] || taken_by "$installed"
	[ -n "$newer" ] || missing="QEMU 10: $why_no_newer"
	[ -z "$newer" ] || { taken_by "$newer"; mapped_by "$newer"; }
	tell_missing
}

. "$shunit"
