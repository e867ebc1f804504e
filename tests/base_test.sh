#!/bin/sh
# save --base: only what differs is stored, and what is given out is right all the same: from chains
# of any kind, wherever they lie. A base that is not there, or not what it was, is named.

. "$(dirname "$0")/lib.sh"

find_codecs

# said IMAGE: what check says of it when it is good.
said() {
	"$SNAP" check "$1" 2>&1
}

# fails STATUS STDERR IMAGE: check and load (behind its one byte for the destination) end so.
fails() {
	fails_status=$1 fails_words=$2
	run "$SNAP" check "$3"
	assertEquals "check: $(cat err)" "$fails_status" "$status"
	assertContains "check" "$(cat err)" "$fails_words"
	run "$SNAP" load "$3"
	assertEquals "load: $(cat err)" "$fails_status" "$status"
	assertContains "load" "$(cat err)" "$fails_words"
	run python3 "$TESTS/readimg.py" check "$3"
	assertEquals "second reader: $(cat out err)" "$fails_status" "$status"
}

# refused IMAGE STATUS STDERR OPTION...: the source read up to its devices, no new file.
refused() {
	refused_image=$1 refused_status=$2 refused_words=$3
	shift 3
	ls -i >before
	"$TOOLS/mkstream" --json=1000 --drained=fed | "$SNAP" save "$refused_image" "$@" 2>err
	ended "$refused_status" $? "$*: $(cat err)"
	assertContains "$*" "$(cat err)" "$refused_words"
	assertTrue "$*: drained" "[ -f fed ]"
	rm -f fed
	assertEquals "$*: files" "$(cat before)" "$(ls -i)"
}

# From raw and compressed ones, raw and compressed ones.
test_all_combinations() {
	mk s --json=2000
	mk t --json=2000 --change=1:20
	for old in $codecs; do
		save b s --compress=$old
		for new in $codecs; do
			save i t --compress=$new --base=b
			holds_stream i t
			# As many as the stream itself has of old and new pages.
			pages_of <s >old
			pages_of <t | grep -v ' zero$' >new
			kept=$(grep -c -x -F -f old new)
			stored=$(($(wc -l <new) - kept))
			assertEquals "i: good, $stored pages stored, $kept in ancestors" "$(said i)"
		done
	done
	assertTrue "some of both" "[ $kept -gt 150 ] && [ $(wc -l <new) -gt $((kept + 30)) ]"
}

# Pages that are drawn anew become zero and data, and come again; also in several passes.
test_ordinary_streams_with_repeats() {
	repeats="--kind=ordinary --passes=3 --late-zero=20 --late-data=20"
	mk s --json=2000 $repeats
	mk t --json=2000 $repeats --change=7:30
	for codec in $codecs; do
		save b s --compress=$codec --cluster-size=64K
		save i t --compress=$codec --cluster-size=64K --base=b
		holds_stream i t
		for n in 0 1 2 4; do
			save j$n t --compress=$codec --cluster-size=64K --base=b --reproducible \
				--aio=threads,$n
			assertTrue "$codec, $n threads" "cmp j0 j$n"
		done
	done
}

# A page that comes as the base's, then another one, then as the base's again; and so on. With
# clusters of 16 pages, in one and the same and in others.
test_a_page_that_goes_to_and_fro() {
	set -- $(seq 10 59 | sed 's/.*/&=r&/')
	python3 "$TOOLS/pagestream.py" 4096 m:60 0=r0 1=r1 2=r2 3=r3 "$@" >s
	python3 "$TOOLS/pagestream.py" 4096 m:60 0=r0 1=r99 0=r98 0=r0 1=r1 2=r2 3=z 2=z "$@" \
		1=r97 0=r96 2=r2 3=r3 "$@" 1=r1 0=r0 0=r95 2=z 4=r4 >t
	for codec in $codecs; do
		save b s --compress=$codec --cluster-size=64K
		save i t --compress=$codec --cluster-size=64K --base=b
		holds_stream i t
		assertEquals "i: good, 2 pages stored, 52 in ancestors" "$(said i)"
	done
}

# Units of the base whose pages are not in the order in which they are wanted.
test_pages_in_another_order_than_in_the_base() {
	python3 "$TOOLS/pagestream.py" 4096 m:9 0=c0 2=c2 1=c1 3=c3 7=c7 6=r6 5=c5 4=c4 8=c8 >s
	python3 "$TOOLS/pagestream.py" 4096 m:9 0=c0 1=c1 2=c2 3=c3 4=c4 5=c5 6=r6 7=c7 8=x8 >t
	save b s "$coded" --unit-pages=4
	save i t "$coded" --unit-pages=2 --base=b
	holds_stream i t
	assertEquals "i: good, 1 page stored, 8 in ancestors" "$(said i)"
}

# Every batch needs pages from here and there: still none is stored that the base has.
test_pages_out_of_turn() {
	mk s --block=a:5000 --json=2000 --zero=0
	mk t --block=a:5000 --json=2000 --zero=0 --shuffle
	for options in --compress=none $coded "$coded --unit-pages=64"; do
		save b s $options
		save i t --base=b
		assertEquals "$options" "i: good, 0 pages stored, 5000 in ancestors" "$(said i)"
	done
	pages_of <t >want
	"$SNAP" load i | pages_of >got
	assertTrue "pages" "cmp want got"
}

# What page is what in base and image: zero, absent, the same, another.
test_zero_and_absent_pages() {
	python3 "$TOOLS/pagestream.py" 4096 m:10 0=z 1=z 2=z 4=r4 5=r5 6=r6 7=r7 8=x01 >s
	python3 "$TOOLS/pagestream.py" 4096 m:10 0=z 1=r1 3=r3 5=z 6=r6 7=r70 8=x00 9=z >t
	for codec in $codecs; do
		save b s --compress=$codec
		save i t --compress=$codec --base=b
		holds_stream i t
		assertEquals "i: good, 3 pages stored, 1 in ancestors" "$(said i)"
	done
}

# A page whose CRC is that of the base's is another one all the same: it is compared.
test_a_page_with_the_same_checksum_is_stored() {
	python3 "$TOOLS/samecrc.py" page1 page2
	assertEquals "two pages" 0 $?
	python3 "$TOOLS/pagestream.py" 4096 m:3 0=@page1 1=@page1 2=@page2 >s
	python3 "$TOOLS/pagestream.py" 4096 m:3 0=@page2 1=@page1 2=@page1 >t
	for old in $codecs; do
		for new in $codecs; do
			save b s --compress=$old
			save i t --compress=$new --base=b
			holds_stream i t
			assertEquals "i: good, 2 pages stored, 1 in ancestors" "$(said i)"
		done
	done
}

# serves STREAM OPTIONS...: a postcopy load gives the destination the pages of the stream.
serves() {
	pages_of <"$1" | grep -v ' zero$' | sort >want
	shift
	run "$TOOLS/rpclient" --dump --requests=150 --burst=8 --repeat --before-run "$SNAP" "$@"
	assertEquals "$*: $(tail -n 1 out) $(cat err)" 0 "$status"
	grep -v ' zero$' out | grep -v '^pages ' | sort >got
	assertTrue "$*: pages" "cmp want got"
}

# Each changes some pages, raw and compressed in turn; then all of them go elsewhere.
# The format has room for 255 ancestors.
test_the_longest_chain() {
	mk s --block=a:2 --json=0 --devices=1
	save i0 s
	n=0
	while [ $n -lt 255 ]; do
		save i$((n + 1)) s --base=i$n
		n=$((n + 1))
	done
	run "$SNAP" check --quick i255
	expect 0 ""
	run_on s "$SNAP" --base=i255 save i256
	expect 1 "qemu-snap: i255: has 255 ancestors, and an image can have no more"
}

test_a_chain_of_ten() {
	mkdir d e
	mk s --json=2000
	save d/i0 s "$coded"
	changes=
	for n in 1 2 3 4 5 6 7 8 9 10; do
		changes="$changes --change=$n:10"
		mk s --json=2000 $changes
		how=--compress=none
		[ $((n % 2)) -eq 0 ] || how=$coded
		save d/i$n s "$how" --base=d/i$((n - 1))
	done
	holds_stream d/i10 s
	serves s --postcopy load d/i10
	serves s --postcopy --aio=threads,0 load d/i10
	assertContains "$(said d/i10)" " in ancestors"
	# Pages of seven of them at least, by what the second reader finds in the leaves.
	python3 - "$TESTS" >from <<-'END'
		import sys
		sys.dont_write_bytecode = True
		sys.path.insert(0, sys.argv[1])
		import readimg
		image = readimg.Image("d/i10")
		slots = readimg.check_unit_table(image)[0]
		print(len({entry[4] for page, entry in readimg.check_page_table(image, slots)}))
		print(*[a.path.decode() for a in image.ancestors])
	END
	assertTrue "from $(head -n 1 from) ancestors" "[ $(head -n 1 from) -ge 7 ]"
	assertEquals "i9 i8 i7 i6 i5 i4 i3 i2 i1 i0" "$(tail -n 1 from)"
	mv d e/f
	holds_stream e/f/i10 s
	cd e/f || fail
	serves ../../s --postcopy load i10
	cd ../..
	cp -R e/f g
	assertContains "a copy" "$(said g/i10)" "g/i10: good"
	# Any of them may be missing; those behind it are still good.
	mv g/i4 g/x
	mv e e2
	run "$SNAP" load g/i10
	assertEquals 1 "$status"
	assertContains "$(cat err)" "g/i10: needs the image with UUID "
	assertContains "$(cat err)" ": g/i4: No such file or directory"
	assertContains "$(said g/i3)" "g/i3: good"
}

test_small_when_little_changed() {
	mk s --block=a:20000 --json=2000
	mk t --block=a:20000 --json=2000 --change=1:1
	for codec in $codecs; do
		save b s --compress=$codec
		save i t --compress=$codec --base=b
		assertTrue "$codec: $(size_of i) for $(size_of b)" \
			"[ $(size_of i) -le $(($(size_of b) * 3 / 100)) ]"
		"$SNAP" load i >l
		pages_of <l >got
		pages_of <t >want
		assertTrue "$codec: pages" "cmp want got"
	done
}

# listed IMAGE: the paths of its ancestors.
listed() {
	python3 -c 'import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import readimg
print(*[a.path.decode() for a in readimg.Image(sys.argv[2]).ancestors])' "$TESTS" "$1"
}

# In the same directory, in another one, below, above; named from here and from the root. Where the
# image lies is what counts, not where the save ran.
test_where_the_base_lies() {
	mkdir -p d/sub e
	ln -s d link
	mk s --json=2000 --block=m:20
	mk t --json=2000 --block=m:20 --change=1:20
	here=$(pwd -P)
	while read -r base image path; do
		save "$base" s
		save "$image" t --base="$base"
		assertEquals "$base, $image" "$path" "$(listed "$image")"
		run "$SNAP" check "$image"
		assertEquals "$base, $image: $(cat err)" 0 "$status"
		(cd e && run "$SNAP" check "$here/${image#"$here/"}" && exit "$status")
		assertEquals "$base, $image, from elsewhere" 0 $?
		python3 "$TESTS/readimg.py" check "$image" >out
		assertEquals "$base, $image, second reader" good "$(cat out)"
		rm -f "$base" "$image"
	done <<-END
		b i b
		./b i b
		$here/b i b
		b $here/i b
		d/b d/i b
		d/sub/../b d/i b
		d/b e/i ../d/b
		d/b i d/b
		b d/sub/i ../../b
		$here/d/b e/i $here/d/b
		$here/d/b i d/b
		link/b d/i b
		d/b link/i b
	END
	# A link leads elsewhere one day: the true name is kept.
	save d/b s
	ln -s d/b newest
	save i t --base=newest
	assertEquals "by a link" d/b "$(listed i)"
	# A chain through directories.
	save e/i s --base=newest
	save d/sub/k t --base=e/i
	assertEquals "a chain" "../../e/i ../b" "$(listed d/sub/k)"
	assertContains "$(said d/sub/k)" "good"
	# Two directories that move together; an absolute path does not move along.
	save d/b s
	save e/i t --base=d/b
	mkdir f
	mv d e f
	assertContains "$(said f/e/i)" "good"
	# Beside the image is looked as well.
	mv f/d/b f/e/b
	assertContains "$(said f/e/i)" "good"
	holds_stream f/e/i t
}

# From a directory deep enough, the name of a base that lies above is longer than one can be.
test_a_base_with_too_long_a_name() {
	mk s --json=2000
	save b s
	deep=$(printf '%1400s' '' | sed 's| |d/|g')
	mkdir -p "$deep"
	run "$SNAP" save --base=b "${deep}i" <s
	expect 1 "qemu-snap: b: its name is too long, or its directory cannot be read"
	assertEquals "left behind" "" "$(ls -A "$deep")"
	save "${deep}i" s --base="$(pwd -P)/b"
	holds_stream "${deep}i" s
	rm -rf d
}

test_a_base_that_is_not_there_or_another_one() {
	mk s --json=2000
	mk t --json=2000 --change=1:20
	save b s
	save i t --base=b
	uuid=$("$SNAP" info --json b | sed -n 's/.*"uuid": "\(.*\)".*/\1/p')
	needs="qemu-snap: i: needs the image with UUID $uuid"
	mv b was
	fails 1 "$needs, which is not beside it: b: No such file or directory" i
	run "$SNAP" --postcopy load i
	expect 1 "$needs, which is not beside it: b: No such file or directory"
	mkdir b
	fails 1 "$needs" i
	rmdir b
	echo notes >b
	fails 1 "$needs; b is not that" i
	head -c 100000 was >b
	fails 1 "$needs; b is not that" i
	rm b
	save b s	# the same guest, and another image
	fails 1 "$needs; b is not that" i
	mv was b
	holds_stream i t
}

# wrong PAGES: none of them is given out other than it was saved.
wrong() {
	pages_of <t >want
	python3 - "$1" <<-'END'
		import sys
		sys.dont_write_bytecode = True
		want = set(open("want"))
		got = [line for line in open(sys.argv[1]) if not line.startswith("pages ")]
		bad = [line for line in got if line not in want and not line.endswith(" zero\n")]
		assert got and not bad, bad
	END
	assertEquals "pages that are given out" 0 $?
}

test_a_damaged_base() {
	mk s --json=2000 --block=m:300 --zero=0
	mk t --json=2000 --block=m:300 --zero=0 --change=1:20
	for codec in $codecs; do
		save b s --compress=$codec
		save i t --base=b
		python3 - <<-'END'
			f = open("b", "r+b")
			f.seek(4096 + 300000)
			f.write(b"damaged" * 2000)
		END
		run "$SNAP" check i
		assertEquals "$codec: $(cat err)" 2 "$status"
		assertContains "$(cat err)" "qemu-snap: b: block m offset 0x"
		assertContains "$(cat err)" "page fails its checksum"
		assertContains "$(tail -n 1 err)" "qemu-snap: i: damaged: "
		assertNotContains "$(cat err)" "qemu-snap: i: block"
		fails 2 "qemu-snap: b: block m offset 0x" i
		"$TOOLS/rpclient" --dump --all --expect-exit=2 "$SNAP" --postcopy load i >out 2>err
		ended 0 $? "$codec: $(cat err)"
		assertContains "$(cat err)" "qemu-snap: b: block m offset 0x"
		wrong out
		# A new image stores what it cannot compare.
		save j t --base=b
		"$SNAP" load j >l1
		assertEquals "$codec: on a damaged base" 0 $?
		pages_of <l1 >got
		pages_of <t >want
		assertTrue "$codec: on a damaged base" "cmp want got"
	done
	# In its tables.
	save b s
	save i t --base=b
	python3 - <<-'END'
		import struct
		f = open("b", "r+b")
		b = f.read()
		at = struct.unpack_from("<Q", b, len(b) - 4096 + 112 + 2 * 32 + 8)[0]	# the leaf
		f.seek(at + 3000)
		f.write(b"damaged")
	END
	fails 2 "qemu-snap: b: offset " i
}

test_every_changed_byte_is_found() {
	mk s --block=a:60 --block=b:3 --json=1000 --devices=3
	mk t --block=a:60 --block=b:3 --json=1000 --devices=3 --change=1:50
	save b s
	for codec in $codecs; do
		save i t --compress=$codec --unit-pages=4 --base=b
		python3 "$TOOLS/flip.py" flip i 200 1 "$SNAP" check >missed
		assertEquals "$codec" "" "$(cat missed)"
		python3 "$TOOLS/flip.py" flip i 8 2 python3 "$TESTS/readimg.py" check >missed
		assertEquals "$codec, second reader" "" "$(cat missed)"
	done
}

test_no_base() {
	mk s
	save b s
	cp b bad
	dd if=/dev/zero of=bad bs=1 seek=100 count=1000 conv=notrunc 2>/dev/null
	printf '\1' | dd of=bad bs=1 seek=100 conv=notrunc 2>/dev/null
	echo notes >notes
	mk t --block=pc.ram:200
	save other t
	mk t --page-size=2048 --page-bits
	save small t
	refused i 1 "qemu-snap: nowhere: No such file or directory" --base=nowhere
	refused i 1 "qemu-snap: .: Is a directory" --base=.
	refused i 2 "qemu-snap: notes: too short" --base=notes
	refused i 2 "qemu-snap: s: not a qemu-snap image: a QEMU migration stream as it is" --base=s
	refused i 2 "qemu-snap: bad: offset 0: header fails its checksum" --base=bad
	for base in other small; do
		words="is of a guest with other RAM blocks or pages, and no base"
		refused i 2 "qemu-snap: $base: $words" --base=$base
	done
	mk t --change=1:5
	save i t --base=b
	mv b c
	refused j 1 "qemu-snap: i: needs the image with UUID " --base=i
}

# What others are based on is not replaced by what is based on it.
# What is based on a file that has gone could never be loaded.
test_a_base_that_is_replaced_meanwhile() {
	mk s --block=a:500 --zero=0
	mk t --block=a:500 --zero=0 --change=3:20
	save b s
	mkfifo fifo
	"$SNAP" --base=b save i <fifo 2>err &
	saver=$!
	exec 9>fifo
	head -c 500000 t >&9
	save b s
	tail -c +500001 t >&9
	exec 9>&-
	wait $saver
	assertEquals "exit status" 1 $?
	assertEquals "qemu-snap: b: was replaced or moved meanwhile: nothing can be based on it" \
		"$(cat err)"
	assertEquals "b err fifo out s t" "$(echo *)"
}

test_info_tells_of_the_base() {
	mk s --block=a:100
	mk t --block=a:100 --change=3:20
	save b s
	save i t --base=b
	"$SNAP" info --json i >json
	"$SNAP" check i >checked || fail "$(cat checked)"
	uuid=$("$SNAP" info --json b | sed -n 's/.*"uuid": "\(.*\)",/\1/p')
	python3 - "$uuid" <<-'END'
		import json, sys
		d = json.load(open("json"))
		p = d["pages"]
		assert d["ancestors"] == [{"uuid": sys.argv[1], "path": "b"}], d
		assert p["stored"] > 0 and p["ancestor"] > 0, p
		assert sum(p.values()) == 2 * p["total"], p
		assert open("checked").read() == "i: good, %d page%s stored, %d in ancestors\n" % (
		    p["stored"], "" if p["stored"] == 1 else "s", p["ancestor"]), p
	END
	assertEquals 0 $?
	assertContains "$("$SNAP" info i)" "based on       $uuid  b"
}

test_no_image_is_its_own_base() {
	mkdir d
	mk s
	save a s
	save b s --base=a
	save c s --base=b
	cksum a b c >sums
	for image in a ./b "$PWD/c" d/../a; do
		words="is its own base, or an ancestor of it, and is not replaced"
		refused "$image" 1 "qemu-snap: $image: $words" --base=c
	done
	cksum a b c >got
	assertTrue "untouched" "cmp sums got"
	# One that is not in the chain is, be it based on the same.
	save b2 s --base=a
	save b2 s --base=c
	assertContains "$(said b2)" "in ancestors"
}

. "$shunit"
