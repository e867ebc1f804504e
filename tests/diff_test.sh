#!/bin/sh
# diff: what it says of two images is true of the streams that they were made of, whatever they
# are based on and however they are stored; what differs behind equal checksums; damage; and how it
# is told, to people and to programs.

. "$(dirname "$0")/lib.sh"

find_codecs
kinds="     changed     appeared  became zero  block"

# differ A B [OPTION...]: exit status 0, not a word on stderr.
differ() {
	differ_a=$1 differ_b=$2
	shift 2
	run "$SNAP" diff "$@" "$differ_a" "$differ_b"
	expect 0 ""
}

# What was printed of ranges, and of blocks.
ranges() {
	sed '1,/^ *offset /d; /^$/,$d' out
}

rows() {
	sed '1,/^ *changed /d' out
}

# true_of A B STREAM STREAM [PAGE-SIZE]: with and without --paranoid; sets found, the counts.
true_of() {
	differ "$1" "$2" --list --json
	found=$(python3 "$TOOLS/truediff.py" "$3" "$4" ${5+"$5"} <out 2>said)
	ended 0 $? "$1 $2: $(tail -n 3 said)"
	sed 's/"paranoid": false/"paranoid": true/' out >plain
	differ "$1" "$2" --list --json --paranoid
	assertTrue "$1 $2 --paranoid" "cmp plain out"
}

test_all_combinations() {
	mk s --json=2000
	mk t --json=2000 --change=1:20
	mk u --json=2000 --change=1:20 --change=2:10
	for codec in $codecs; do
		save a s --compress=$codec
		for other in $codecs; do
			save b t --compress=$other --unit-pages=4
			true_of a b s t
			assertEquals "36 5 8" "$found"
			save based t --compress=$other --base=a
			true_of a based s t
			true_of based b t t
			assertEquals "0 0 0" "$found"
			# Both on the same one, and one below the other.
			save c u --compress=$other --base=a
			true_of based c t u
			save c u --compress=$other --base=based
			true_of based c t u
			true_of c a u s
		done
	done
}

# Pages that come again, in other passes and out of turn: slots are not in the guest's order.
test_streams_with_repeats() {
	mk s --kind=ordinary --passes=3 --late-zero=20 --late-data=20 --block=a:5000 --shuffle
	mk t --kind=ordinary --passes=2 --late-zero=20 --absent=10 --block=a:5000 --change=3:9
	for codec in $codecs; do
		save a s --compress=$codec
		save b t --compress=$codec
		true_of a b s t
		for n in 0 1 4; do
			differ a b --list --json --paranoid --aio=threads,$n
			assertTrue "$n threads" "cmp plain out"
		done
	done
}

# Most pages are equal, and read under --paranoid; some are not: all in order.
test_many_pages() {
	for size in 1024 4096 65536; do
		pages=$((80000000 / (size + 12000)))
		guest="--page-size=$size --page-bits --json=2000 --block=a:$pages --block=b:7"
		mk s $guest
		mk t $guest --change=5:2 --shuffle
		for codec in $codecs; do
			save a s --compress=$codec --unit-pages=4
			save b t --compress=$codec --unit-pages=2
			true_of a b s t $size
			[ "$size $codec" = "4096 none" ] || continue
			run "$SNAP" diff a b --paranoid --cache=none --list --json
			assertEquals "direct I/O" 0 "$status"
			assertTrue "direct I/O" "cmp plain out"
		done
	done
}

# What a page is in A and B: absent, zero, bytes, other bytes.
test_every_pair_of_states() {
	python3 "$TOOLS/pagestream.py" 4096 m:18 4=z 5=z 6=z 7=z 8=r1 9=r1 10=r1 11=r1 12=r2 13=r2 \
		14=r2 15=r2 16=x01 >s
	python3 "$TOOLS/pagestream.py" 4096 m:18 1=z 2=r1 3=r2 5=z 6=r1 7=r2 9=z 10=r1 11=r2 13=z \
		14=r1 15=r2 16=x00 17=x00 >t
	for codec in $codecs; do
		save a s --compress=$codec
		save b t --compress=$codec
		true_of a b s t
		assertEquals "2 4 5" "$found"
		save b t --compress=$codec --base=a
		true_of a b s t
		true_of b a t s
		assertEquals "2 5 4" "$found"
	done
}

test_an_image_and_itself() {
	mk s
	save a s
	cp a copy
	ln -s a link
	for other in a copy link; do
		true_of a $other s s
		assertEquals "0 0 0" "$found"
	done
}

# ---- blocks ----

test_other_blocks() {
	# Other order, other lengths; pages of them lie in other leaves.
	mk s --json=2000 --block=m:300 --block=only.a:9 --block=long:20 --block=short:9
	mk t --json=2000 --block=only.b:9000 --block=long:15 --block=m:300 --block=short:13 --block=z:1
	save a s
	save b t "$coded"
	true_of a b s t
	true_of b a t s
	differ a b --json
	python3 -c 'import json
print([[b["id"], b["length-a"], b["length-b"], b["pages"] is None]
    for b in json.load(open("out"))["blocks"]])' >rows
	assertEquals "[['m', 1228800, 1228800, False], ['only.a', 36864, None, True], \
['long', 81920, 61440, False], ['short', 36864, 53248, False], \
['only.b', None, 36864000, True], ['z', None, 4096, True]]" "$(cat rows)"
	# What is in them does not depend on where they are.
	python3 "$TOOLS/pagestream.py" 4096 x:9000,m:9,y:3 9001=r1 9002=r2 9003=r3 9007=r7 9011=r8 >s
	python3 "$TOOLS/pagestream.py" 4096 y:3,m:12,w:4 4=r1 5=r9 7=r4 10=r7 2=r8 14=r5 >t
	save a s
	save b t --unit-pages=1
	differ a b --list --paranoid
	assertEquals "A              a
B              b
page size      4096 bytes

          offset           length  what         block
          0x2000           0x1000  changed      m
          0x3000           0x1000  became-zero  m
          0x4000           0x1000  appeared     m

$kinds
           -            -            -  x, only in A: 36864000 bytes
           1            1            1  m, where both have it: 36864 bytes in A, 49152 in B
           0            0            0  y
           -            -            -  w, only in B: 16384 bytes
           1            1            1  total" "$(cat out)"
}

test_blocks_of_other_lengths_end_where_the_shorter_one_does() {
	python3 "$TOOLS/pagestream.py" 4096 m:5,n:5 0=r0 4=r4 5=r5 9=r9 >s
	python3 "$TOOLS/pagestream.py" 4096 m:4,n:8 0=r0 3=r3 4=r5 8=r9 9=r1 >t
	save a s
	save b t
	differ a b
	assertEquals "\
           0            1            0  m, where both have it: 20480 bytes in A, 16384 in B
           0            0            0  n, where both have it: 20480 bytes in A, 32768 in B
           0            1            0  total" "$(rows)"
}

# Few pages have bytes, and the blocks begin anywhere in the bytes of a leaf.
# Nobody knows what was in a block that was left out: it has not become zero.
test_a_block_that_was_left_out() {
	mk s --block=shared:300 --block=b:20 --json=2000
	python3 "$TOOLS/mapped.py" --make s part shared=1 omit=1
	save whole s
	run "$SNAP" import part part.snap
	expect 0 ""
	for pair in "whole part.snap B" "part.snap whole A" "part.snap part.snap both"; do
		set -- $pair
		differ "$1" "$2" --list
		assertEquals "$pair" "" "$(ranges)"
		assertEquals "           -            -            -  shared, left out of $3 by x-ignore-shared
           0            0            0  b
           0            0            0  total" "$(rows)"
		for list in "" --list; do
			differ "$1" "$2" --json $list
			assertEquals "null 0" "$(python3 -c 'import json
d = json.load(open("out"))
assert d["blocks"][0]["length-a"] == d["blocks"][0]["length-b"] == 300 * 4096
print("null" if d["blocks"][0]["pages"] is None else "counts", sum(d["pages"].values()))')"
		done
	done
}

test_many_small_blocks() {
	set --
	for i in $(seq 200); do
		set -- "$@" "--block=m$i:$((i % 11 + 1))"
	done
	mk s --json=20000 --zero=70 --absent=20 "$@"
	mk t --json=20000 --zero=70 --absent=20 "$@" --change=1:60
	save a s
	save b t
	true_of a b s t
	true_of b a t s
}

test_other_page_size() {
	mk s --page-bits
	mk t --page-size=2048 --page-bits
	save a s
	save b t
	run "$SNAP" diff a b
	expect 1 "qemu-snap: a: pages of 4096 bytes cannot be compared with those of 2048 in b"
	assertEquals "" "$(cat out)"
}

# ---- how it is told ----

test_for_people() {
	python3 "$TOOLS/pagestream.py" 1024 m:20,n:2 0=r0 1=r1 2=r2 5=r5 7=r7 8=r8 20=r9 >s
	python3 "$TOOLS/pagestream.py" 1024 m:20,n:2 0=r1 1=r2 2=r2 3=r3 4=r4 5=z 19=r9 20=r9 >t
	save a s
	save "$(printf 'b\033[1m')" t
	differ a b*
	assertEquals "A              a
B              b?[1m
page size      1024 bytes

$kinds
           2            3            3  m
           0            0            0  n
           2            3            3  total" "$(cat out)"
	differ a b* --list
	assertEquals "
          offset           length  what         block
               0            0x800  changed      m
           0xc00            0x800  appeared     m
          0x1400            0x400  became-zero  m
          0x1c00            0x800  became-zero  m
          0x4c00            0x400  appeared     m

$kinds
           2            3            3  m" "$(sed -n '4,13p' out)"
}

test_for_programs() {
	mk s
	mk t --change=1:20
	save a s
	save b t
	differ a b --json
	cp out short
	differ a b --json --list
	python3 - "$("$SNAP" info --json a)" "$("$SNAP" info --json b)" <<-'END'
		import json, sys
		short, long = json.load(open("short")), json.load(open("out"))
		for d in short, long:
		    for key, info in zip("ab", map(json.loads, sys.argv[1:])):
		        assert d[key] == {"image": key, "uuid": info["uuid"]}, d[key]
		    assert d["page-size"] == 4096 and d["paranoid"] is False
		    assert list(d) == ["a", "b", "page-size", "paranoid", "blocks", "pages"]
		for b in long["blocks"]:
		    assert list(b) == ["id", "length-a", "length-b", "ranges", "pages"], b
		    del b["ranges"]
		assert short == long
	END
	assertEquals 0 $?
}

# Quotes, control bytes, bytes that are no UTF-8, and such that are.
test_odd_names() {
	for name in 'say "m"' 'back\slash' "$(printf 'tab\there\033[1m')" "$(printf 'no\377\300utf8\303')" \
	    "$(printf 'caf\303\251 \360\237\230\200')" ':' ' ' '$(x)'; do
		set -- "$@" "--block=$name:3"
	done
	mk s "$@"
	mk t "$@" --change=4:50
	image=$(printf 'im"a\001\377ge')
	save "$image" s
	save b t
	true_of "$image" b s t
	python3 -m json.tool <out >tool 2>err || fail "json.tool: $(cat err)"
	# Others that are in one of them only.
	mk t --block=m:1
	save b t
	for option in --list --json; do
		differ "$image" b --json $option
		python3 -m json.tool <out >tool 2>err || fail "json.tool: $(cat err)"
		differ b "$image" --json $option
		python3 -m json.tool <out >tool 2>err || fail "json.tool: $(cat err)"
	done
	differ "$image" b --list
	assertEquals "control bytes" "" "$(tr -d '\n -~\200-\377' <out)"
}

test_command_line() {
	for words in "--list info x" "--paranoid check x" "--list load x" "--json check x" \
	    "--base=y diff x z" "--compress=none diff x z" "--trace diff x z"; do
		run "$SNAP" $words
		assertEquals "$words" 1 "$status"
		assertContains "$words" "$(cat err)" ": not for "
	done
	run "$SNAP" diff
	expect 1 "qemu-snap: diff: the name of the image is missing"
	run "$SNAP" diff x
	expect 1 "qemu-snap: diff: the name of the second image is missing"
	run "$SNAP" diff x y z
	expect 1 "qemu-snap: diff: one argument too many: z"
	mk s
	save a s
	run "$SNAP" diff a x
	expect 1 "qemu-snap: x: No such file or directory"
	run "$SNAP" diff s a
	expect 2 "qemu-snap: s: not a qemu-snap image: a QEMU migration stream as it is"
	if [ -w /dev/full ]; then
		"$SNAP" diff a a >/dev/full 2>err
		assertEquals 1 $?
		assertEquals "qemu-snap: stdout: cannot be written" "$(cat err)"
	fi
}

# ---- bytes, and ancestors ----

# Pages 0 and 1 have the same checksum in A and B, and others bytes; 2 is the same.
test_a_change_behind_equal_checksums() {
	python3 "$TOOLS/samecrc.py" page1 page2
	python3 "$TOOLS/pagestream.py" 4096 m:5 0=@page1 1=@page2 2=@page1 3=r1 >s
	python3 "$TOOLS/pagestream.py" 4096 m:5 0=@page2 1=@page1 2=@page1 4=r1 >t
	for old in $codecs; do
		for new in $codecs; do
			save a s --compress=$old
			save b t --compress=$new
			save based t --compress=$new --base=a
			for b in b based; do
				differ a $b
				assertContains "$(tail -n 1 out)" "  0            1            1  total"
				differ a $b --paranoid --list
				assertEquals "\
               0           0x2000  changed      m
          0x3000           0x1000  became-zero  m
          0x4000           0x1000  appeared     m" "$(ranges)"
				assertContains "$(rows)" "  2            1            1  total"
			done
			# In an ancestor of theirs, each in another.
			save c s --compress=$new --base=a
			save d t --compress=$new --base=b
			true_of c a s s
			differ c d --paranoid
			assertContains "$(tail -n 1 out)" "  2            1            1  total"
		done
	done
	# UUIDs that are derived from checksums are the same: no proof.
	python3 "$TOOLS/pagestream.py" 4096 m:1 0=@page1 >s
	python3 "$TOOLS/pagestream.py" 4096 m:1 0=@page2 >t
	save a s --reproducible
	save b t --reproducible
	assertEquals "$("$SNAP" info a | grep UUID)" "$("$SNAP" info b | grep UUID)"
	differ a b --paranoid
	assertContains "$(tail -n 1 out)" "  1            0            0  total"
}

# The tables say it all: no ancestor is looked for unless pages are to be read.
test_ancestors_that_are_missing() {
	mk s
	mk t --change=1:20
	mk u --change=1:20 --change=2:20
	save base s
	save a t --base=base
	save b u --base=base
	mv base away
	differ a b --json --list
	python3 "$TOOLS/truediff.py" t u <out >found
	assertEquals 0 $?
	run "$SNAP" diff --paranoid a b
	assertEquals 1 "$status"
	assertContains "$(cat err)" "qemu-snap: a: needs the image with UUID "
	assertEquals "" "$(cat out)"
}

# ---- damage ----

# spoil IMAGE OFFSET
spoil() {
	printf 'damaged' | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

test_a_damaged_page() {
	mk s --json=2000 --block=m:300 --zero=0
	mk t --json=2000 --block=m:300 --zero=0 --change=1:20
	for codec in $codecs; do
		save a s --compress=$codec
		save b t --compress=$codec
		save based t --compress=$codec --base=a
		spoil a 300000
		differ a b
		for options in "a b" "b a"; do
			run "$SNAP" diff --paranoid $options
			assertEquals "$codec $options: $(cat err)" 2 "$status"
			assertContains "$(cat err)" "qemu-snap: a: block m offset 0x"
			assertContains "$(cat err)" "page fails its checksum"
			assertEquals "one message" 1 "$(wc -l <err | tr -d ' ')"
			assertEquals "" "$(cat out)"
			run "$SNAP" diff --paranoid --list $options
			assertNotContains "$(cat out)" "total"
		done
		run "$SNAP" diff --paranoid --json --list b a
		assertEquals 2 "$status"
		assertFalse "half an object" "python3 -m json.tool <out"
		# They are the same pages, in the same place; nothing is read.
		differ a based --paranoid
	done
}

test_a_changed_byte_in_the_tables() {
	mk s --block=a:60 --block=b:3 --json=1000 --devices=3
	mk t --block=a:60 --block=b:3 --json=1000 --devices=3 --change=1:50
	save a s
	save b t --base=a
	differ a b --list
	python3 - "$SNAP" <<-'END'
		import random, struct, subprocess, sys
		good = open("b", "rb").read()
		sections = {}
		for i in range(struct.unpack_from("<I", good, len(good) - 3992)[0]):
		    kind, _, off, length, _ = struct.unpack_from("<IIQQQ", good, len(good) - 3984 + 32 * i)
		    sections[kind] = off, length
		draw = random.Random(1)
		for kind in (2, 3, 4, 5, 18):
		    off, length = sections[kind]
		    for at in draw.sample(range(off, off + length), 30):
		        bad = bytearray(good)
		        bad[at] ^= 1 << draw.randrange(8)
		        open("bad", "wb").write(bad)
		        got = subprocess.run([sys.argv[1], "diff", "--list", "a", "bad"],
		                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
		        assert got.returncode == 2 and got.stderr, (kind, at, got)
	END
	assertEquals 0 $?
}

# A table that leads to the page of another is not believed, though all checksums are right.
test_tables_that_do_not_agree() {
	python3 "$TOOLS/pagestream.py" 4096 m:12 0=c0 1=c1 2=c2 3=c3 4=r4 5=r5 6=r6 7=r7 8=c8 9=c9 \
		10=c10 11=z >s
	save i s "$coded" --unit-pages=4
	needs_zstd || return 0
	python3 "$TOOLS/badimage.py" coded i >kinds
	for kind in slot-page-other entry-huge slot-page-huge slot-dead-and-named; do
		run "$SNAP" diff i $kind.bad
		assertEquals "$kind: $(cat err)" 2 "$status"
		assertContains "$(cat err)" "qemu-snap: $kind.bad: "
	done
}

# ---- large guests ----

# 4 TiB, with one page in every fourth leaf: neither pages nor leaves add up.
test_a_large_guest() {
	# Nothing in the second of its eight nodes.
	node=134217728
	awk -v n=$node 'BEGIN { for (i = 0; i < 8 * n; i += 16384)
		if (i < n || i >= 2 * n)
			print i "=x1" >(i % 32768 ? "of_t" : "of_s") }'
	awk 'NR % 2' of_s >>of_t
	for image in s t; do
		python3 "$TOOLS/pagestream.py" 4096 m:1073741824 $(cat of_$image) >stream
		"$SNAP" save $image <stream 2>err || fail "$(cat err)"	# it warns of the room
	done
	# Seconds of the processor, however busy the machine is; less than one does.
	(ulimit -t ${SANITIZED:+1}10; exec python3 "$TOOLS/peak.py" peak "$SNAP" diff s t >out)
	assertEquals 0 $?
	assertContains "$(tail -n 1 out)" "  0        28672        14336  total"
	[ -z "${SANITIZED-}" ] || return 0
	assertTrue "$(cat peak) KiB" "[ $(cat peak) -le 24576 ]"
}

. "$shunit"
