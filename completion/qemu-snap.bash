# SPDX-License-Identifier: BSD-2-Clause
# Completion of qemu-snap for bash.

_qemu_snap()
{
	local word=$2 before=$3 verb='' i
	local pool='--nocache --cache= --aio=' told='--progress --status-fd='
	local writes='--image-size= --reproducible --cluster-size= --unit-pages= --compress= --base= --label='
	local any='--version --help' options=

	# The shell tears --option=VALUE into three words.
	if [[ $word == '=' ]]; then
		word=
	elif [[ $before == '=' ]]; then
		before=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	case $before in
	--cache) options='writeback none writethrough directsync unsafe' ;;
	--aio) options=threads ;;
	--compress) options='none zstd' ;;
	--to) options='stream mapped-ram raw lime' ;;
	--from) options='stream mapped-ram' ;;
	esac
	if [[ -n $options ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
		return
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		take | revert | status | save | load | info | check | diff | optimize | export | import)
			verb=${COMP_WORDS[i]}
			break
			;;
		esac
	done
	case $verb in
	take) options="$pool $told $writes --page-size= --trace --disks --stop" ;;
	save) options="$pool $told $writes --page-size= --trace" ;;
	load | revert) options="$pool $told --page-size= --postcopy --resume --uuid= --rate= --host-page-size= --record --no-hot --trace" ;;
	info) options='--json' ;;
	check) options="$pool $told --quick" ;;
	diff) options="$pool --list --paranoid --json" ;;
	optimize) options="$pool $told $writes --no-hot" ;;
	export) options="$pool $told --to= --block=" ;;
	import) options="$pool $told $writes --page-size= --from=" ;;
	'') options="$pool $told $writes --page-size= --trace --postcopy --resume --uuid= --rate= --host-page-size= --record --no-hot --disks --stop \
--json --quick --list --paranoid --to= --block= --from=" ;;
	esac
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options $any" -- "$word")
		[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
	elif [[ -z $verb && $before != -* && $before != '=' ]]; then
		mapfile -t COMPREPLY < <(compgen -W 'take revert status save load info check diff optimize export import' -- "$word")
	else
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
	fi
}

complete -F _qemu_snap qemu-snap
