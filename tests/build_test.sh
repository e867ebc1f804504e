#!/bin/sh
# Building, in copies of the tree: with every make at hand, and with sanitizers; installing and
# cleaning; the manual against the program; and the rules of the house that grep can check.

. "$(dirname "$0")/lib.sh"

free_of_make
under_test=$SNAP
tab=$(printf '\t')

setUp() {
	SNAP=$under_test
	enter
}

# compiles MAKE: would it compile anything? (bmake -q says so always.)
compiles() {
	case $("$1" -n all 2>&1) in
	*' -c '*) return 0 ;;
	esac
	return 1
}

# The build, and what depends on what, for one make.
build_with() {
	copy copy
	silent "$1" -s all
	works ./qemu-snap
	assertFalse "$1: all is up to date" "compiles $1"
	sleep 1.1	# bmake compares seconds
	for header in *.h; do
		touch "$header"
		assertTrue "$1: nobody minds a touched $header" "compiles $1"
		touch -t 200001010000 "$header"
	done
	assertFalse "$1: up to date again" "compiles $1"
	touch snap.h
	silent "$1" -s CC="$(quick)" all
	assertEquals "$1: not built again" "" "$(find . -name '*.o' ! -newer snap.h)"
	assertTrue "$1: linked again" "[ -n \"\$(find . -name qemu-snap -newer snap.h)\" ]"
}

test_gnu_make() {
	gnu="make"
	command -v gmake >/dev/null 2>&1 && gnu=gmake
	case $($gnu --version 2>&1) in
	*GNU*) build_with $gnu ;;
	*) skip "no GNU make here" ;;
	esac
	return 0
}

test_bmake() {
	requires bmake && build_with bmake
	return 0
}

# Every C file of the tree is in the program; nothing is forgotten in the Makefile.
test_every_source_is_built() {
	copy copy
	silent make -s CC="$(quick)" all
	for source in *.c; do
		assertTrue "$source is not in OBJ" "[ -f '${source%.c}.o' ]"
	done
}

tree() {
	find . -type f -exec cksum {} + | sort
}

# installed DIR: modes and names below it, as ls has them.
installed() {
	(cd "$1" && find . -exec ls -ld {} + | sed 's/^\(.\{10\}\).* \.\(.*\)/\1 \2/' | sort -k 2)
}

# With other things beside, in names with spaces, and under a umask that would hide all.
test_install_and_uninstall() {
	copy copy
	silent make -s CC="$(quick)" all
	mkdir -p "o th/us r/bin" "o th/us r/share/man/man1"
	touch "o th/us r/bin/qemu-snapper" "o th/us r/bin/qemu" "o th/us r/share/man/man1/qemu.1"
	mask=$(umask)
	umask 077
	for make in make bmake; do
		command -v $make >/dev/null 2>&1 || continue
		silent $make -s CC="$(quick)" install DESTDIR=x PREFIX=/usr
		assertEquals "$make: installed" "drwxr-xr-x 
drwxr-xr-x /usr
drwxr-xr-x /usr/bin
-rwxr-xr-x /usr/bin/qemu-snap
drwxr-xr-x /usr/share
drwxr-xr-x /usr/share/bash-completion
drwxr-xr-x /usr/share/bash-completion/completions
-rw-r--r-- /usr/share/bash-completion/completions/qemu-snap
drwxr-xr-x /usr/share/man
drwxr-xr-x /usr/share/man/man1
-rw-r--r-- /usr/share/man/man1/qemu-snap.1
drwxr-xr-x /usr/share/zsh
drwxr-xr-x /usr/share/zsh/site-functions
-rw-r--r-- /usr/share/zsh/site-functions/_qemu-snap" "$(installed x)"
		for file in qemu-snap:bin/qemu-snap qemu-snap.1:share/man/man1/qemu-snap.1 \
			completion/_qemu-snap:share/zsh/site-functions/_qemu-snap \
			completion/qemu-snap.bash:share/bash-completion/completions/qemu-snap; do
			assertTrue "$file" "cmp ${file%:*} x/usr/${file#*:}"
		done
		(cd "o th" && tree) >before
		# Over an older one, as well.
		for again in 1 2; do
			silent $make -s CC="$(quick)" install DESTDIR="$PWD/o th" PREFIX="/us r"
		done
		assertEquals 7 "$(find "o th" -type f | wc -l | tr -d ' ')"
		silent $make -s CC="$(quick)" uninstall DESTDIR="$PWD/o th" PREFIX="/us r"
		assertEquals "$make: what others have" "$(cat before)" "$(cd "o th" && tree)"
		silent $make -s CC="$(quick)" uninstall DESTDIR=x PREFIX=/usr
		assertEquals "$make: left behind" "" "$(find x ! -type d)"
		rm -r x
	done
	umask "$mask"
}

test_install_over_a_program_that_runs() {
	copy copy
	silent make -s CC="$(quick)" install DESTDIR=x
	mk s
	mkfifo p
	x/usr/local/bin/qemu-snap save i <p &
	saver=$!
	exec 3>p
	head -c 100000 s >&3
	silent make -s CC="$(quick)" install DESTDIR=x
	tail -c +100001 s >&3
	exec 3>&-
	wait $saver
	assertEquals "the one that ran" 0 $?
	works x/usr/local/bin/qemu-snap
}

# It says which directory it was, and no program is there without the rest.
test_install_where_it_may_not() {
	unprivileged || return 0
	copy copy
	silent make -s CC="$(quick)" all
	chmod 755 "$dir"
	mkdir -p x/usr/local/share/man/man1 x/usr/local/bin
	chmod -R a+rwX .
	chmod 555 x/usr/local/share/man/man1
	for make in make bmake; do
		command -v $make >/dev/null 2>&1 || continue
		run $nobody $make CC="$(quick)" install DESTDIR=x
		assertNotEquals "$make: exit status" 0 "$status"
		assertContains "$make" "$(cat err)" "x/usr/local/share/man/man1/qemu-snap.1"
		assertContains "$make" "$(cat err)" "Permission denied"
		assertEquals "$make: installed" "" "$(find x ! -type d)"
	done
}

test_clean_leaves_the_sources() {
	copy copy
	tree >../before
	silent make -s CC="$(quick)" all tools
	assertFalse "nothing was built" "[ \"\$(cat ../before)\" = \"\$(tree)\" ]"
	silent make -s clean
	tree >../after
	assertEquals "$(cat ../before)" "$(cat ../after)"
}

# ---- sanitizers ----

# sanitizer FLAGS: set cc to a compiler whose programs run with them; or skip.
sanitizer() {
	echo 'int main(void) { return 0; }' >try.c
	for cc in gcc clang; do
		$cc $1 -o try try.c >/dev/null 2>&1 && ./try >/dev/null 2>&1 && return
	done
	skip "no compiler here whose programs run with $1"
}

sanitized() {
	flags="-O1 -g1 $1"
	copy copy
	silent make -s -j2 CC="$cc -std=c99" CFLAGS="$flags" all
	SNAP=$PWD/qemu-snap
	cd "$dir" || exit 1
}

# unharmed STATUS: the last run ended so, and not by a sanitizer.
unharmed() {
	assertEquals "exit status; $(head -n 20 err)" "$1" "$status"
	assertNotContains "$(head -n 60 err)" "Sanitizer"
	assertNotContains "$(head -n 60 err)" "runtime error"
}

# round STREAM-OPTIONS -- SNAP-OPTIONS: save, check, load and serve; all silent, all pages right.
round() {
	made=
	while [ "$1" != -- ]; do
		made="$made $1"
		shift
	done
	shift
	mk s $made
	pages_of <s >want
	save i s --cluster-size=64K "$@"
	run "$SNAP" "$@" check i
	unharmed 0
	assertEquals "check" "" "$(cat err)"
	"$SNAP" "$@" load i >l 2>err
	status=$?
	unharmed 0
	assertEquals "load" "" "$(cat err)"
	pages_of <l >got
	assertTrue "pages" "cmp want got"
	for mode in --postcopy --postcopy=50; do
		run "$TOOLS/rpclient" --dump --timeout=60 --requests=200 --burst=8 --repeat --before-run \
			"$SNAP" "$@" $mode load i
		unharmed 0
		assertEquals "$mode: $(tail -n 1 out)" "" "$(grep -v "^qemu-snap: i: served in postcopy, UUID " err)"
		grep -v -e ' zero$' -e '^pages ' out | sort >got
		grep -v ' zero$' want | sort >stored
		assertTrue "$mode: pages" "cmp stored got"
	done
}

test_no_fault_of_memory_or_arithmetic() {
	sanitizer "-fsanitize=address,undefined" || return 0
	sanitized "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
	ASAN_OPTIONS=exitcode=99 UBSAN_OPTIONS=print_stacktrace=1
	export ASAN_OPTIONS UBSAN_OPTIONS
	round --shuffle --block=a:3000 --block=b:1 --
	round --kind=ordinary --passes=2 --late-zero=20 --block=a:1500 -- --aio=threads,0
	round --absent=100 --json=0 --
	run "$SNAP" info i
	unharmed 0
	run "$SNAP" info --json i
	unharmed 0
	# And where things go wrong.
	run "$SNAP" --bogus=1 -p 7 save
	unharmed 1
	mk s --bad=version
	run_on s "$SNAP" save j
	unharmed 2
	mk s --block=a:3000 --cut=5000000
	run_on s "$SNAP" save j
	unharmed 2
	mk s --block=a:3000
	run_on s "$SNAP" -s 1M save j
	unharmed 1
	run_on s "$SNAP" save j
	unharmed 0
	poke j 6000000 377
	poke j 6000001 377
	for verb in check load; do
		run "$SNAP" $verb j
		unharmed 2
	done
	head -c 1000000 i >k 2>/dev/null
	head -c 5000 j >>k
	run "$SNAP" info k
	unharmed 2
	run "$TOOLS/rpclient" --hangup=100 --expect-exit=1 "$SNAP" --postcopy load i
	assertNotContains "$(cat err)" "Sanitizer"
	unset ASAN_OPTIONS UBSAN_OPTIONS
}

test_no_race_between_threads() {
	sanitizer "-fsanitize=thread" || return 0
	sanitized "-fsanitize=thread"
	TSAN_OPTIONS=exitcode=99
	export TSAN_OPTIONS
	round --shuffle --block=a:3000 --zero=5 -- --aio=threads,4
	round --kind=ordinary --passes=2 --late-zero=30 --block=a:2000 -- --aio=threads,4
	unset TSAN_OPTIONS
}

# ---- the manual ----

test_the_manual_is_clean_mdoc() {
	requires mandoc || return 0
	run sh "$TESTS/lint" mandoc
	assertEquals "$(cat out err)" "lint: clean" "$(cat out err)"
}

# Long names and letters of the options that exist, one a line.
options_of_the_program() {
	sed -n "s/^${tab}{ \"\([a-z-]*\)\", \([^,]*\), [A-Z]*, .*, set_.*/\1 \2/p" \
		"$TOP/options.c" | while read -r name letter; do
		echo "--$name"
		[ "$letter" = 0 ] || echo "$letter" | sed "s/'\(.\)'/-\1/"
	done | sort
}

# The same from the items of the manual's section OPTIONS.
options_of_the_manual() {
	sed -n '/^\.Sh OPTIONS/,/^\.Sh FILES/p' "$TOP/qemu-snap.1" | grep '^\.It Fl' |
		tr ' ' '\n' | awk 'flag { print "-" $0 } { flag = $0 == "Fl" }' | sed 's/\\//' | sort
}

test_the_manual_has_all_options_and_no_others() {
	options_of_the_program >program
	assertTrue "options were found" "[ $(wc -l <program) -ge 15 ]"
	assertEquals "$(cat program)" "$(options_of_the_manual)"
	# Nor does it, or --help, speak of others elsewhere.
	{
		grep -o 'Fl \\-[a-z][a-z-]*' "$TOP/qemu-snap.1" | sed 's/Fl \\-/--/'
		grep -o -e '[ "]--[a-z][a-z-]*' "$TOP/qemu-snap.1" | sed 's/^.//'
		"$SNAP" --help | grep -o -e '--[a-z][a-z-]*'
	} | sort -u >spoken
	assertEquals "no such options" "" "$(comm -13 program spoken)"
}

test_the_manual_has_all_verbs() {
	sed -n "s/^${tab}\[VERB_[A-Z]*\] = { \"\([a-z]*\)\".*/\1/p" "$TOP/options.c" | sort >program
	assertTrue "verbs were found" "[ $(wc -l <program) -ge 4 ]"
	sed -n '/^\.Sh SYNOPSIS/,/^\.Sh DESCRIPTION/s/^\.Cm //p' "$TOP/qemu-snap.1" | sort >manual
	assertEquals "$(cat program)" "$(cat manual)"
	sed -n 's/^\.It Cm \([a-z]*\) Ar [a-z].*/\1/p' "$TOP/qemu-snap.1" | sort >manual
	assertEquals "described" "$(cat program)" "$(cat manual)"
}

# keys_of VERB...: those of the JSON that it prints, one a line.
keys_of() {
	"$SNAP" "$@" --json | python3 -c '
import json, sys
def keys(v):
    if isinstance(v, list):
        return set().union(*map(keys, v))
    return set(v) | set().union(*map(keys, v.values())) if isinstance(v, dict) else set()
print(*sorted(keys(json.load(sys.stdin))), sep="\n")' >keys
	assertTrue "keys were found" "[ $(wc -l <keys) -ge 10 ]"
}

# in_manual FROM TO: the keys in keys are told of between these lines.
in_manual() {
	sed -n "/^$1/,/^$2/s/^\.\(It \)\{0,1\}Cm //p" "$TOP/qemu-snap.1" |
		tr ' ' '\n' | grep '^[a-z]' | sort -u >manual
	assertEquals "not in the manual" "" "$(comm -23 keys manual)"
}

test_the_manual_has_all_json_keys() {
	mk s
	mk t --change=1:20
	save i s
	save j t
	keys_of info i
	in_manual With '\.It Cm check'
	keys_of diff --list i j
	in_manual '\.It Cm diff' '\.Sh OPTIONS'
}

# ---- tests/lint ----

# Those of its tools that are here each find a defect, and nothing where there is none.
test_lint_can_fail() {
	mkdir tests && cp "$TESTS/lint" "$TESTS/lib.sh" tests && cp "$TOP/Makefile" . || fail "copy"
	while read -r tool check; do
		command -v "$tool" >/dev/null 2>&1 || continue
		printf '#include <stdlib.h>\nvoid f(char *);\nvoid\nf(char *p)\n{\n\tfree(p);\n}\n' >a.c
		printf '#!/bin/sh\necho "$@"\n' >tests/a
		cp "$TOP/qemu-snap.1" .
		run sh tests/lint "$tool"
		expect 0 ""
		assertEquals "$tool" "lint: clean" "$(cat out)"
		sed 's/^void f.*//; s/free(p);/& &/' a.c >b && mv b a.c
		sed 's/"//g' tests/a >b && mv b tests/a
		sed 's/^\.Sh NAME/& /' qemu-snap.1 >b && mv b qemu-snap.1
		run sh tests/lint "$tool"
		expect 1 ""
		assertContains "$tool: $(cat out)" "$(cat out)" "[$check]"
		assertContains "$tool: $(cat out)" "$(tail -n 1 out)" " finding"
	done <<-'END'
		gcc -Wanalyzer-double-free
		clang -Wmissing-prototypes
		clang-tidy clang-analyzer-unix.Malloc
		cppcheck doubleFree
		shellcheck SC2068
		mandoc mandoc
	END
	run sh tests/lint gc
	assertEquals "no such tool" 2 "$status"
}

# ---- rules of the house ----

# only FILES PATTERN: an extended pattern that no other file may have.
only() {
	found=$(cd "$TOP" && grep -nE "$2" /dev/null ./*.c ./*.h | sed 's,^\./,,' |
		grep -vE "^($1):")
	assertEquals "only in ${1:-no file}: $2" "" "$found"
}

# calls WORDS: a pattern of calls of these.
calls() {
	echo "(^|[^a-zA-Z0-9_])($1)[[:space:]]*\\("
}

test_one_file_knows_threads() {
	only 'aio_pthreads\.c' 'pthread_|<pthread\.h>'
}

# What the system has is asked in one file, what processor and compiler have in another; zstd is there or
# not for the codecs. All others are the same everywhere.
test_few_files_have_conditions() {
	only 'aio_pthreads\.c' '_SOURCE|__(linux|APPLE|FreeBSD|OpenBSD|NetBSD)__'
	only 'aio_pthreads\.c' "^[ $tab]*#[ $tab]*(define[ $tab]+|undef[ $tab]+)_"
	only 'codec(_zstd)?\.c' 'HAVE_'
	only 'aio_pthreads\.c|crc32c\.c' "^[ $tab]*#[ $tab]*(el)?if.*NO_"
	only 'aio_pthreads\.c|crc32c\.c|codec(_zstd)?\.c|snap\.h|status\.c' \
		"^[ $tab]*#[ $tab]*(el)?if(def|[ $tab]|ndef.*[^H]\$)"
}

test_only_main_ends_the_program() {
	only '' "$(calls 'exit|_exit|_Exit|quick_exit|abort|atexit')"
}

test_one_file_touches_image_files() {
	only 'aio_pthreads\.c' "$(calls 'p(read|write)v?2?|f(data)?sync|rename|f?truncate|(un)?link|mkstemp|mmap')"
	only 'aio_pthreads\.c|drives\.c|snap\.c' "$(calls 'open(at)?')"	# to ask for a lock; /dev/null
}

# A longer one does more than one thing.
test_functions_are_short() {
	assertEquals "functions of more than 70 lines" "" "$(cd "$TOP" && awk '
		/^[a-z_]+[a-z0-9_]*\(/ { name = $1 }
		/^\{/ { begin = FNR }
		/^\}$/ && FNR - begin > 71 { print FILENAME ": " name }' ./*.c tests/tools/*.c)"
}

# never FILES HEADERS: these files include none of these headers.
never() {
	assertEquals "never in $1: $2" "" "$(cd "$TOP" && set -f &&
		grep -E "^#include \"($(echo $2 | sed 's/ /|/g; s/\./\\./g'))\"" /dev/null $1 2>&1)"
}

# The files in the order that is told in the head of snap.c, each above what it may include: names, a line
# each; a header that is not in it is where its .c file is.
order_of_files() {
	sed -n "s/^ \* *$tab\([a-z0-9_]*\.[ch]\)$tab.*/\1/p" "$TOP/snap.c"
}

# "a.c: b.h" for each header that a file includes and that does not stand below it.
includes_upwards() {
	{ order_of_files; (cd "$TOP" && grep '^#include "' ./*.c ./*.h); } | awk '
		!/#include/ { at[$1] = NR; next }
		{
			split($0, w, /[:"]/)
			from = substr(w[1], 3)
			if (place(from) >= place(w[3]) && w[3] != own(from))
				print from ": " w[3]
		}
		function own(name) { sub(/c$/, "h", name); return name }
		function place(name) {
			if (!(name in at))
				sub(/h$/, "c", name)
			return at[name]
		}'
}

test_includes_point_one_way() {
	ours=$(cd "$TOP" && echo ./*.h | sed 's,\./,,g')
	assertEquals "files in the head of snap.c" "$(cd "$TOP" && ls -- *.c)" \
		"$(order_of_files | grep 'c$' | sort)"
	assertEquals "includes that do not point down" "" "$(includes_upwards)"
	never "aio.h bytes.h codec.h crc32c.h latency.h marks.h snap.h options.h guard.h json.h \
		preamble.h" "$ours"
	never table.h "$(echo " $ours " | sed 's/ ram\.h / /')"
	never latency.c "$(echo " $ours " | sed 's/ latency\.h / /')"
	never aio_pthreads.c "$(echo " $ours " | sed 's/ aio\.h / /')"
	never "options.c image.c pipeline.c units.c index.c identity.c reader.c lookup.c fetch.c scan.c verify.c \
		chain.c image.h writer.h reader.h hot.c hot.h" stream.h
	only '(image|pipeline|units|index|identity)\.c' '^#include "writer\.h"'
	only '(reader|lookup|fetch|scan|verify|chain)\.c' '^#include "reader\.h"'
	only '(postcopy|serve)\.c' '^#include "server\.h"'
}

test_plain_text() {
	cd "$TOP" || exit 1
	set -- ./*.c ./*.h tests/tools/*.c Makefile qemu-snap.1
	assertEquals "bytes that are not ASCII" "" "$(grep -n "[^ -~$tab]" "$@")"
	assertEquals "space at the end of a line" "" "$(grep -n "[ $tab]\$" "$@")"
	assertEquals "lines of more than 100 columns" "" "$(awk -F "$tab" '{
		columns = length($1)
		for (i = 2; i <= NF; i++)
			columns += 8 - columns % 8 + length($i)
	} columns > 100 { print FILENAME ": " FNR }' "$@")"
	assertEquals "no licence in its first line" "" "$(awk 'FNR == 1 &&
		!/^\/\* SPDX-License-Identifier: / { print FILENAME }' ./*.c ./*.h tests/tools/*.c)"
}

# In front of $? a $(...) leaves its own status there, in some shells.
test_every_status_is_judged() {
	assertEquals "see ended in lib.sh" "" "$(grep -nE 'assert.*\$\([^(].*\$\?' "$TESTS"/*.sh)"
}

. "$shunit"
