# Completion for belay(1). The list of commands is checked against src/cli/commands.def by tools/check-commands.
_belay() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
	local commands="status doctor enroll unenroll programs policy run channels revoke why whoami audit node"
	if [ "$COMP_CWORD" = 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "--dir --help --version $commands" -- "$cur")
		return
	fi
	case "$command" in
	policy) [ "$COMP_CWORD" = 2 ] && mapfile -t COMPREPLY < <(compgen -W "init check load explain show" -- "$cur") ;;
	audit) [ "$COMP_CWORD" = 2 ] && mapfile -t COMPREPLY < <(compgen -W "tail query verify" -- "$cur") ;;
	node) [ "$COMP_CWORD" = 2 ] && mapfile -t COMPREPLY < <(compgen -W "init invite join list remove" -- "$cur") ;;
	revoke | unenroll)
		mapfile -t COMPREPLY < <(compgen -W "$(belay programs --json 2> /dev/null |
			sed -n 's/^{"name":"\([^"]*\)".*/\1/p')" -- "$cur") ;;
	enroll) [ "$prev" = --as ] || mapfile -t COMPREPLY < <(compgen -W "--as --name --script --group --jit --library" -- "$cur") ;;
	status | doctor | programs | why | whoami | channels) mapfile -t COMPREPLY < <(compgen -W "--json --help" -- "$cur") ;;
	esac
	[ ${#COMPREPLY[@]} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}
complete -F _belay belay
