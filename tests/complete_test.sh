#!/bin/sh
# The completions for bash and zsh offer what the program takes, verb by verb, and nothing else.

. "$(dirname "$0")/lib.sh"

# options_of VERB: those of the table in options.c; without a verb, all.
options_of() {
	python3 - "$TOP/options.c" "$@" <<-'END'
		import re, sys
		text = open(sys.argv[1]).read()
		verbs = {m: 1 << i for i, m in enumerate(
		    re.findall(r'\t\[VERB_([A-Z]+)\] = ', text))}
		names = dict(verbs, ANY=-1)
		for name, value in re.findall(r'^\t([A-Z_]+) = ([A-Z_ |]+),?(?:\t.*)?$', text, re.M):
		    names[name] = eval(value, {}, names)
		mask = names[sys.argv[2].upper()] if len(sys.argv) > 2 else -1
		for name, use in re.findall(
		        r'^\t\{ "([a-z-]+)", [^,]+, \w+, ([^,]+), set_\w+,', text, re.M):
		    if eval(use, {}, names) & mask:
		        print('--' + name)
	END
}

verbs() {
	sed -n 's/^	\[VERB_[A-Z]*\] = { "\([a-z]*\)".*/\1/p' "$TOP/options.c"
}

# bash_offers WORD...: for the last of these.
bash_offers() {
	bash -c '. "$0/completion/qemu-snap.bash"
		COMP_WORDS=(qemu-snap "$@") COMP_CWORD=$#
		_qemu_snap qemu-snap "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
		printf "%s\n" "${COMPREPLY[@]}"' "$TOP" "$@"
}

test_bash() {
	requires bash || return 0
	assertTrue "verbs were found" "[ $(verbs | wc -l) -ge 8 ]"
	assertEquals "$(verbs | sort)" "$(bash_offers "" | sort)"
	for verb in $(verbs); do
		assertEquals "$verb" "$(options_of "$verb" | sort)" \
			"$(bash_offers "$verb" --  | sed 's/=$//' | sort)"
	done
	assertEquals "no verb yet" "$(options_of | sort)" "$(bash_offers -- | sed 's/=$//' | sort)"
	touch 'a b.snap'
	assertEquals "a b.snap" "$(bash_offers check a)"
	assertEquals "a b.snap" "$(bash_offers save --base = a)"
	for what in cache compress to from; do
		for value in $(bash_offers export --$what =); do
			verb=save
			case $what in
			to) verb=export ;;
			from) verb=import ;;
			esac
			run "$SNAP" $verb --$what="$value" x y z
			assertContains "--$what=$value" "$(cat err)" "one argument too many"
		done
	done
}

# What zsh knows, from the file itself, and that it can read it.
test_zsh() {
	for verb in $(verbs); do
		python3 - "$TOP/completion/_qemu-snap" "$verb" <<-'END' | sort >offered
			import re, sys
			text = open(sys.argv[1]).read()
			assert re.search(r"'%s:" % sys.argv[2], text)
			def names(s):
			    return set(re.findall(r"['{,*](--[a-z-]+)", s))
			lists = {n: names(re.search(r'^\t%s=\((.*?)^\t\)' % n, text, re.M | re.S).group(1))
			         for n in ('pool', 'told', 'writes')}
			own = re.search(r'\([a-z|]*\b%s\b[a-z|]*\) options=\((.*?)\) ;;' % sys.argv[2], text, re.S).group(1)
			found = names(own)
			for n in lists:
			    if '$' + n in own:
			        found |= lists[n]
			print(*found, sep='\n')
		END
		assertEquals "$verb" "$(options_of "$verb" | grep -v -e --version -e --help | sort)" \
			"$(cat offered)"
	done
	command -v zsh >/dev/null || skip "no zsh: the file was compared, but not run" || return 0
	run zsh -n "$TOP/completion/_qemu-snap"
	expect 0 ""
	run zsh -f -c 'zmodload zsh/zpty
		zpty z zsh -f
		zpty -w z "autoload -Uz compinit; compinit -u -D; fpath=(); . '"$TOP"'/completion/_qemu-snap 2>/dev/null
			compdef _qemu_snap qemu-snap; PS1=; echo ready"
		zpty -r -m z x "*ready*" >/dev/null
		zpty -w -n z "qemu-snap export --to=ma	"
		sleep 1
		zpty -r -t z y; y=; while zpty -r -t z l; do y+=$l; done; print -r -- "$y"
		zpty -d z'
	assertContains "$(cat out err)" "--to=mapped-ram"
}

. "$shunit"
