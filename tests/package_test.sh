#!/bin/sh
# Who packs the program gets all of it and nothing else, the same bytes wherever and whenever: the tarball
# of the source, Debian's package of it, the recipe for Alpine's. All in directories of their own.

. "$(dirname "$0")/lib.sh"

free_of_make
unset SOURCE_DATE_EPOCH

# A repository with the tree as it is, in one commit. (In SHUNIT_TMPDIR nobody could read it.)
oneTimeSetUp() {
	why=
	command -v git >/dev/null 2>&1 || why="no git here"
	tar --version 2>&1 | grep GNU >/dev/null || why="no GNU tar here"
	[ -z "$why" ] || return 0
	top=$(mktemp -d "${TMPDIR:-/tmp}/qemu-snap-test.XXXXXX") && chmod 755 "$top" || exit 1
	# The tree may be another user's, as in a container.
	(
		cd "$TOP" && if [ -e .git ]; then git -c safe.directory="$TOP" ls-files
		else grep -v '^MANIFEST$' MANIFEST; fi | tar -cf "$top/tar" -T -
	) || exit 1
	HOME=$top GIT_CONFIG_NOSYSTEM=1 GIT_COMMITTER_DATE="2026-02-03T04:05:06+0700"
	export HOME GIT_CONFIG_NOSYSTEM GIT_COMMITTER_DATE
	mkdir "$top/tree" && (
		cd "$top/tree" && tar -xf ../tar && git init -q && git add -Af &&
			git -c user.name=x -c user.email=x@example.org commit -qm x && make -s dist
	) || exit 1
	name=qemu-snap-$("$SNAP" --version | sed -n 's/^qemu-snap //p')
	tarball=$top/tree/$name.tar.gz
}
oneTimeTearDown() { [ -z "${top-}" ] || rm -rf "$top"; }
can_pack() { [ -z "$why" ] || skip "$why"; }

# The program's own version names it; else nothing here would be found.
test_the_tarball_is_named_for_the_version() {
	can_pack || return 0
	assertTrue "$(ls "$top/tree")" "[ -f '$tarball' ]"
	assertEquals "the only one" "$tarball" "$(echo "$top"/tree/*.tar*)"
}

test_the_tarball_has_all_and_nothing_else() {
	can_pack || return 0
	tar -xzf "$tarball"
	git -C "$top/tree" ls-files >want
	echo MANIFEST >>want
	assertTrue "MANIFEST" "cmp want $name/MANIFEST"
	assertEquals "files" "$(sort want)" "$(cd "$name" && find . -type f | sed 's,^\./,,' | sort)"
	git -C "$top/tree" ls-files -s | sed -n 's/^100755 .*	//p' | sort >want
	assertTrue "commands are known" "[ -s want ]"
	assertEquals "commands" "$(cat want)" \
		"$(cd "$name" && find . -type f -perm -111 | sed 's,^\./,,' | sort)"
	(cd "$top/tree" && tar -cf - -T MANIFEST) | (mkdir tree && cd tree && tar -xf -)
	assertEquals "contents" "" "$(diff -r tree "$name" 2>&1)"
	assertEquals "owner and time" "0/0 2026-02-02 21:05" "$(TZ=UTC0 tar -tvzf "$tarball" |
		awk '{ print $2, $4, $5 }' | sort -u)"
	# As a user has it: it builds, and its tests run.
	cd "$name" || exit 1
	silent make -s CC="$(quick)" all tools
	works ./qemu-snap
	assertEquals "$name" "$name" "$(./qemu-snap --version | sed -n '1s/ /-/p')"
	(unset SNAP V; exec sh tests/run tests/cli_test.sh) >out 2>&1 </dev/null
	status=$?
	assertEquals "its tests: $(cat out)" 0 "$status"
}

# same DIR MAKE [WORD...]: what is made there is the same, byte for byte.
same() {
	in=$1 by=$2
	shift 2
	silent "$@" "$by" -s -C "$in" dist
	assertTrue "$by in $in" "cmp '$tarball' '$in/$name.tar.gz'"
}

test_the_tarball_is_the_same_wherever_it_is_made() {
	can_pack || return 0
	unprivileged || return 0
	mask=$(umask)
	umask 077
	git clone -q "$top/tree" "a clone"
	# What is built, and what git does not know, has no place in it.
	touch "a clone/snap.o" "a clone/other" "a clone/tests/other" "a clone/snap.c"
	chmod 755 . && chmod -R g+w "a clone/tests"
	[ -z "$nobody" ] || chown -R 65534:65534 "a clone"
	same "a clone" make $nobody env TZ=Asia/Tokyo LC_ALL=C.UTF-8
	same "a clone" make $nobody env TZ=America/New_York	# twice
	umask "$mask"
	mkdir unpacked
	tar -xzf "$tarball" -C unpacked
	touch "unpacked/$name/other"
	same "unpacked/$name" make env TZ=Asia/Tokyo
	# A clean tarball still knows what it was made of.
	make -s -C "unpacked/$name" clean
	assertFalse "after clean" "[ -f 'unpacked/$name/$name.tar.gz' ]"
	same "unpacked/$name" make env
	command -v bmake >/dev/null 2>&1 || { skip "no bmake here"; return 0; }
	git clone -q "$top/tree" clone
	same clone bmake env
	rm "unpacked/$name/$name.tar.gz"
	same "unpacked/$name" bmake env
}

test_the_tarball_has_the_time_that_is_asked_for() {
	can_pack || return 0
	git clone -q "$top/tree" clone
	(cd clone && SOURCE_DATE_EPOCH=86461 make -s dist)
	assertEquals "1970-01-02 00:01" "$(TZ=UTC0 tar -tvzf "clone/$name.tar.gz" |
		awk '{ print $4, $5 }' | sort -u)"
}

# None rather than half of one.
test_no_tarball() {
	can_pack || return 0
	git clone -q "$top/tree" clone
	run make -s -C clone dist TAR=echo
	assertNotEquals "another tar" 0 "$status"
	assertContains "$(cat err)" "dist needs GNU tar"
	mv clone/README.md .
	run make -s -C clone dist
	assertNotEquals "a file of the commit is missing" 0 "$status"
	mv README.md clone && rm -rf clone/.git clone/MANIFEST
	run make -s -C clone dist
	assertNotEquals "neither git nor MANIFEST" 0 "$status"
	assertContains "$(cat err)" "MANIFEST"
	assertEquals "left behind" "" "$(find clone -name '*.gz')"
}

# debian DIR MAKE: a package, and nothing else but what clean takes away.
debian() {
	(cd "$1" && exec $2 deb) >out 2>&1 </dev/null
	status=$?
	assertEquals "$2 deb: $(tail out)" 0 "$status"
	assertEquals "MANIFEST
$name.tar.gz
$deb" "$(git -C "$1" status --porcelain --ignored | sed 's/^!! //' | sort)"
}

test_debian() {
	can_pack && requires dpkg-buildpackage && requires dh || return 0
	dpkg -s libzstd-dev >/dev/null 2>&1 || { skip "no libzstd-dev of Debian's here"; return 0; }
	arch=$(dpkg --print-architecture)
	deb=qemu-snap_${name##*-}_$arch.deb
	git clone -q "$top/tree" a
	debian a make
	run dpkg-deb -f "a/$deb" Version
	expect 0 ""
	assertEquals "${name##*-}" "$(cat out)"
	run dpkg-deb -f "a/$deb" Depends
	assertContains "$(cat out)" "libc6 "
	assertContains "$(cat out)" "libzstd1 "
	assertEquals "-rwxr-xr-x root/root ./usr/bin/qemu-snap
-rw-r--r-- root/root ./usr/share/bash-completion/completions/qemu-snap
-rw-r--r-- root/root ./usr/share/doc/qemu-snap/changelog.gz
-rw-r--r-- root/root ./usr/share/doc/qemu-snap/copyright
-rw-r--r-- root/root ./usr/share/man/man1/qemu-snap.1.gz
-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_qemu-snap" \
		"$(dpkg-deb -c "a/$deb" | awk '!/^d/ { print $1, $2, $6 }')"
	assertEquals "directories" "drwxr-xr-x root/root" \
		"$(dpkg-deb -c "a/$deb" | awk '/^d/ { print $1, $2 }' | sort -u)"
	dpkg-deb -x "a/$deb" x
	works x/usr/bin/qemu-snap
	assertContains "$(x/usr/bin/qemu-snap --version)" "zstd"
	share=x/usr/share
	gzip -d $share/man/man1/qemu-snap.1.gz $share/doc/qemu-snap/changelog.gz
	assertTrue "manual" "cmp '$TOP/qemu-snap.1' $share/man/man1/qemu-snap.1"
	assertTrue "copyright" "cmp '$TOP/LICENSE' $share/doc/qemu-snap/copyright"
	assertEquals "qemu-snap (${name##*-}) unstable; urgency=medium" \
		"$(head -n 1 $share/doc/qemu-snap/changelog)"
	assertEquals " -- $(dpkg-deb -f "a/$deb" Maintainer)  Mon, 02 Feb 2026 21:05:06 +0000" \
		"$(tail -n 1 $share/doc/qemu-snap/changelog)"
	mv "a/$deb" a.deb
	touch "a/$deb"
	silent make -s -C a clean
	assertEquals "after clean" "" "$(git -C a status --porcelain --ignored)"
	# And again: another place, umask, time zone and make.
	other="make"
	command -v bmake >/dev/null 2>&1 && other=bmake
	mask=$(umask)
	umask 077
	git clone -q "$top/tree" another
	debian another "env TZ=Asia/Tokyo $other"
	umask "$mask"
	assertTrue "the same once more" "cmp a.deb 'another/$deb'"
}

# A recipe is read by abuild's shell with the variables of a build set.
test_alpine() {
	can_pack || return 0
	tar -xzf "$tarball"
	recipe=$TOP/packaging/APKBUILD
	silent sh -n "$recipe"
	for variable in pkgname pkgver pkgrel pkgdesc url arch license makedepends source; do
		assertNotEquals "$variable" "" "$(. "$recipe" && eval "echo \$$variable")"
	done
	for variable in depends sha512sums; do
		assertEquals "$variable" set "$(unset $variable; . "$recipe" && eval "echo \${$variable+set}")"
	done
	assertEquals "$name" "$(. "$recipe" && echo "$pkgname-$pkgver")"
	assertEquals "$name.tar.gz" "$(. "$recipe" && echo "$source")"
	# Its functions, as abuild calls them; all that check would run must be there.
	silent env CC="$(quick)" CFLAGS=-O0 pkgdir="$dir/pkg" sh -c '
		make() { command make -s "$@"; }
		sh() { ls "$@" tests/tools/mkstream tests/tools/rpclient >"$pkgdir.check"; }
		set -eu
		. "$1"
		cd "$2"
		build
		check
		package' sh "$recipe" "$name"
	assertTrue "check runs some tests" "[ $(wc -l <pkg.check) -ge 4 ]"
	assertEquals "/usr/bin/qemu-snap
/usr/share/bash-completion/completions/qemu-snap
/usr/share/man/man1/qemu-snap.1
/usr/share/zsh/site-functions/_qemu-snap" "$(cd pkg && find . -type f | sed 's/^\.//' | sort)"
	works pkg/usr/bin/qemu-snap
	requires shellcheck || return 0
	silent shellcheck -s ash -e SC2034,SC2154 "$recipe"
}

. "$shunit"
