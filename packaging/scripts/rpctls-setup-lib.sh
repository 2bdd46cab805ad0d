# shellcheck shell=sh
# SPDX-License-Identifier: BSD-3-Clause
#
# What rpctls-server-setup and rpctls-client-setup share. Installed as
# /usr/share/rpctls/rpctls-setup-lib.sh; it is read, not run.
#
# How a setup goes: look at everything that could be in the way; do all of it
# once in a copy of /etc/rpctls in memory (a rehearsal, with the daemons' own
# -check at its end); then do the same in earnest. Should something fail even
# so, what was there before is put back.
#
# The script that reads this sets prog and hints (an expression of sed that fits
# the hints of rpctlsctl to it), and defines units and plan, which takes the
# directory that is to change.
# shellcheck disable=SC2034,SC2154 # variables of one are used by the other

# Root's PATH is not always one with /usr/sbin.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
LC_ALL=C
export LC_ALL
umask 022

etc=/etc/rpctls
account=rpctls # the daemons' user and group
newline='
'
# The build of these scripts: no clock can truly show an earlier time.
epoch=1788220800 # 2026-09-01
room=512         # KiB that must be free
make_room="df /run; it takes twice what $etc holds"

dry_run=no
replace_tlshd=no
passphrase_file=
work=  # a directory in memory, for this run
stage= # rehearsal, or earnest once something may have changed

# ---- what is said

# That nobody reads it is said by SIGPIPE.
say() { printf '%s\n' "$*" 2>/dev/null; }

note() { printf '%s: note: %s\n' "$prog" "$*" >&2; }

# complain WHAT HINT
complain() {
	printf '%s: %s\n' "$prog" "$1" >&2
	[ -z "${2-}" ] || printf 'hint: %s\n' "$2" >&2
}

# die WHAT HINT
die() {
	complain "$@"
	exit 1
}

usage_error() {
	complain "$1" "${2-$prog --help}"
	exit 2
}

print_version() {
	version=$(rpctlsctl version 2>/dev/null) || version="rpctlsctl is not installed"
	say "$prog ${version#rpctlsctl }"
}

# ---- leaving

# leave ends every run, however it ends.
leave() {
	status=$?
	trap - EXIT
	trap '' INT TERM HUP PIPE
	stty_back
	if [ "$stage" = earnest ]; then
		undo || status=1
	fi
	[ -z "$work" ] || rm -rf "$work"
	exit "$status"
}

trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE # nobody reads on what is said: "| head"
trap 'exit 143' TERM

# ---- looking around

check_root() {
	[ "$(id -u)" = 0 ] || die "only root can do this" "run it with sudo, or as root"
}

check_clock() {
	now=$(date +%s)
	if [ "$now" -lt "$epoch" ]; then
		die "the clock is wrong: it says $(date -u '+%Y-%m-%d %H:%M:%S') UTC" "set it (timedatectl, chronyc makestep), then do it again"
	fi
}

# check_installed looks for programs, units and files.
check_installed() {
	for program in rpctlsctl rpctlscd $1; do
		command -v "$program" >/dev/null || die "$program is not installed" "install the package rpctls"
	done
	if ! command -v systemctl >/dev/null || ! [ -d /run/systemd/system ]; then
		die "this system does not run systemd" "use rpctlsctl cert, and start the daemons by your own means: /usr/share/doc/rpctls/setup.md"
	fi
	version=$(systemctl --version | awk 'NR == 1 { print $2 }')
	case ${version%%[!0-9]*} in
	'') ;; # it does not say
	[0-9] | [0-9][0-9] | 1?? | 2[0-4]? | 25[0-3])
		die "systemd is too old: it is version $version, and the units need 254 (Type=notify-reload)" \
			"use a newer system (Debian 13, Ubuntu 24.04), or do it by hand: /usr/share/doc/rpctls/setup.md"
		;;
	esac
	for unit in $(units); do
		systemctl cat "$unit" >/dev/null 2>&1 || die "systemd does not know $unit" "install the package rpctls, or run systemctl daemon-reload"
	done
	if ! getent passwd "$account" >/dev/null || ! getent group "$account" >/dev/null; then
		die "there is no user $account, or no group of that name" "run systemd-sysusers"
	fi
	for file in rpctlscd $1; do
		[ -f "$etc/$file.toml" ] || die "$etc/$file.toml is missing" "the package rpctls has it (dpkg --force-confmiss, dnf reinstall)"
	done
}

check_kernel() {
	# Functions are in kallsyms whatever its configuration; where it cannot be
	# read, the daemon will tell. Its size is 0, as that of all files in /proc.
	if head -c 1 /proc/kallsyms 2>/dev/null | grep -q . && ! grep -q ' handshake_nl_accept_doit' /proc/kallsyms; then
		die "this kernel ($(uname -r)) has no TLS handshakes (CONFIG_NET_HANDSHAKE)" "Linux 6.12 or later has them in all larger distributions"
	fi
	try=
	[ "$dry_run" = no ] || try=--dry-run
	if ! modprobe -q ${try:+"$try"} tls 2>/dev/null && ! [ -d /sys/module/tls ]; then
		die "the kernel module tls cannot be loaded" "modprobe tls says why; it may be in a package of its own (linux-modules-extra, kernel-modules)"
	fi
}

# another_agent says which program answers the kernel's requests besides ours.
another_agent() {
	if systemctl is-active --quiet tlshd.service 2>/dev/null; then
		say "tlshd is running"
		return
	fi
	if systemctl is-enabled --quiet tlshd.service 2>/dev/null; then
		say "tlshd will run after the next boot"
		return
	fi
	here=$(readlink /proc/self/ns/net) || return 0
	for comm in /proc/[0-9]*/comm; do
		[ "$(cat "$comm" 2>/dev/null)" = tlshd ] || continue
		process=${comm%/comm}
		[ "$(readlink "$process/ns/net")" = "$here" ] || continue
		say "tlshd is running (process ${process#/proc/}, not as a service)"
		return
	done
}

check_agents() {
	agent=$(another_agent)
	case $agent in
	'') ;;
	*'not as a service)')
		die "$agent, and would take half of the kernel's requests" "end it for good, then do it again"
		;;
	*)
		[ "$replace_tlshd" = yes ] ||
			die "$agent, and would take half of the kernel's requests" "--replace-tlshd stops and disables it; rpctlsctl config convert takes over its settings"
		;;
	esac
}

check_room() {
	free=$(df -Pk "$etc" | awk 'NR == 2 { print $4 }')
	inodes=$(df -Pi "$etc" | awk 'NR == 2 { print ($4 ~ /^[0-9]+$/ && $2 > 0) ? $4 : 1000 }')
	if [ "$free" -lt "$room" ] || [ "$inodes" -lt 50 ]; then
		die "there is no room on the file system of $etc: $free KiB and $inodes inodes" "make room ($room KiB), then do it again"
	fi
	[ -w "$etc" ] || die "$etc cannot be written to: its file system is mounted read-only" "mount -o remount,rw"
}

# lock keeps another setup out. It is on this very file, so that there is none
# to be left behind.
lock() {
	exec 9<"$lib"
	flock -n 9 || die "another setup is running on this host" "wait for it"
}

# look is everything that is the same on servers and clients. Its argument is
# the daemon besides rpctlscd, if any.
look() {
	check_root
	check_clock
	check_installed "$1"
	check_room
	check_kernel
	check_agents
	lock
}

# readable FILE... looks for the files of the command line.
readable() {
	for file in "$@"; do
		[ -e "$file" ] || die "$file: no such file" "is the path right?"
		[ -f "$file" ] || die "$file: not a file" "is the path right?"
		[ -s "$file" ] || die "$file is empty" "copy it once more"
		[ -r "$file" ] || die "$file cannot be read" "is its file system mounted well?"
	done
}

# ---- passphrases

tty_state=

stty_back() {
	[ -z "$tty_state" ] || stty "$tty_state" </dev/tty
	tty_state=
}

# ask PROMPT sets answer.
ask() {
	if ! { true </dev/tty; } 2>/dev/null; then
		die "there is no terminal to ask for the passphrase" "--passphrase-file names a file with it"
	fi
	tty_state=$(stty -g </dev/tty)
	stty -echo </dev/tty
	printf '%s' "$1" >/dev/tty
	IFS= read -r answer </dev/tty || answer=
	printf '\n' >/dev/tty
	stty_back
	[ -n "$answer" ] || die "no passphrase was given" "do it again"
}

# keep_answer hands the answer to rpctlsctl, in memory. printf is part of the
# shell: no process shows its arguments.
keep_answer() {
	passphrase_file=$work/passphrase
	(umask 077 && printf '%s\n' "$answer" >"$passphrase_file")
	answer=
}

is_encrypted() { head -c 40 "$1" | grep -q -e 'BEGIN AGE ENCRYPTED FILE' -e '^age-encryption.org/'; }

# passphrase_of FILE makes sure that it is known, if it takes one.
passphrase_of() {
	if is_encrypted "$1" && [ -z "$passphrase_file" ]; then
		ask "passphrase of $1: "
		keep_answer
	fi
}

# new_passphrase asks twice.
new_passphrase() {
	[ -z "$passphrase_file" ] || return 0
	ask "passphrase for the bundles: "
	first=$answer
	ask "once more: "
	[ "$first" = "$answer" ] || die "the passphrases differ" "do it again"
	first=
	keep_answer
}

is_bundle() { is_encrypted "$1" || grep -q -e '-----BEGIN [A-Z ]*PRIVATE KEY-----' "$1"; }

# ---- doing

# begin makes the room for the rehearsal. The daemons' user must be able to
# look at it as at the real one.
begin() {
	work=$(mktemp -d /run/rpctls-setup.XXXXXX) || die "there is no room in /run" "$make_room"
	chgrp "$account" "$work"
	chmod 0750 "$work"
	mkdir "$work/before" "$work/etc" || die "there is no room in /run" "$make_room"
	for copy in before etc; do
		cp -a "$etc/." "$work/$copy" 2>/dev/null || die "there is no room in /run for a copy of $etc" "$make_room"
	done
	# And what the rehearsal writes.
	left=$(df -Pk "$work" | awk 'NR == 2 { print $4 }')
	[ "$left" -ge "$room" ] || die "there is no room in /run: beside a copy of $etc there are $left KiB" "$make_room and $room KiB"
	: >"$work/out"
	: >"$work/err"
}

# ctl runs rpctlsctl in the name of this program.
ctl() {
	rpctlsctl "$@" 2>>"$work/err"
}

# with LIST COMMAND... runs the command with the lines of the list at its end.
with() {
	list=$1
	shift
	set -f
	IFS=$newline
	# shellcheck disable=SC2086 # that is the purpose
	set -- "$@" $list
	unset IFS
	set +f
	"$@"
}

# each LIST COMMAND... runs it once for each line.
each() {
	rest=$1
	shift
	while [ -n "$rest" ]; do
		line=${rest%%"$newline"*}
		rest=${rest#*"$newline"}
		"$@" "$line" || return
	done
}

# messages shows what rpctlsctl and the daemons had to say.
messages() {
	sed -e "s|$work/etc|$etc|g" -e "s|^rpctls[a-z]*: |$prog: |" -e "s|^note: |$prog: note: |" \
		-e "s|^hint: rpctlsctl cert [a-z]* --help$|hint: $prog --help|" -e "s/^\(cat\|cp\|chmod\|mkdir\|mv\|sed\|sync\): /$prog: /" -e "$hints" "$work/err" | awk '!said[$0]++' >&2
}

# refused STATUS ends a run that was refused by rpctlsctl or a daemon, with their
# own words.
refused() {
	messages
	if ! [ -s "$work/err" ]; then
		complain "there is no room left" "df /run $etc"
	elif grep -q 'this CA certifies only' "$work/err"; then
		say "hint: rpctlsctl cert show shows what it may certify; --no-addresses leaves this host's addresses out" >&2
	elif ! grep -q '^hint: ' "$work/err"; then
		say "hint: mend that, then do it again" >&2
	fi
	exit "$1"
}

rehearse() {
	stage=rehearsal
	if plan "$work/etc" >"$work/out"; then
		return 0
	else
		refused $?
	fi
}

# would tells what a rehearsal did.
would() {
	sed -e "s|$work/etc|$etc|g" -e "s|$work/|./|g" -e '/^SHA-256 /d' \
		-e 's/: [0-9a-f]\{32\}$//' -e 's/^wrote /would write /' -e 's/^made /would make /' \
		-e 's/^removed /would remove /' -e 's/^issued /would issue /' -e 's/^installed /would install /' \
		-e 's/^trusted /would trust /' "$work/out"
	messages
}

earnest() {
	# What the rehearsal said is said again now.
	: >"$work/err"
	made=
	stage=earnest
	plan "$etc" || {
		status=$?
		[ "$status" -lt 128 ] || exit "$status" # by a signal: it has no words of its own
		refused 1
	}
	messages
}

tree() {
	(cd "$1" && find . -printf '%y %m %U %G %p %l\n' && find . -type f -exec cksum {} +) | sort
}

changed() { [ "$(tree "$work/before")" != "$(tree "$etc")" ]; }

# put_back makes the directory what it was. Files that did not change are not
# touched; the others are replaced in one step each.
put_back() {
	(
		cd "$etc" && find . -depth -print | while IFS= read -r path; do
			if ! [ -e "$work/before/$path" ] && ! [ -L "$work/before/$path" ]; then
				rm -rf "./$path"
			fi
		done
		cd "$work/before" && find . -print | while IFS= read -r path; do
			if [ -L "$path" ]; then
				[ "$(readlink "$path")" != "$(readlink "$etc/$path")" ] || continue
			elif [ -d "$path" ]; then
				[ -d "$etc/$path" ] || cp -a --parents "$path" "$etc"
				continue
			elif [ -f "$etc/$path" ] && cmp -s "$path" "$etc/$path"; then
				continue
			fi
			if cp -a "$path" "$etc/$path.rpctls-old"; then
				mv -T "$etc/$path.rpctls-old" "$etc/$path"
			else
				rm -f "$etc/$path.rpctls-old"
			fi
		done
	)
	! changed
}

started=
enabled=
reloaded=
made=
tlshd_was=

# revoked_since tells whether somebody else has revoked certificates meanwhile.
revoked_since() {
	[ -f "$work/before/ca/index" ] || return 1
	tail -c "+$(($(wc -c <"$work/before/ca/index") + 1))" "$etc/ca/index" | grep -qw revoked
}

# undo puts everything back as it was before this run.
undo() {
	stage=
	for unit in $started; do systemctl stop "$unit"; done 2>/dev/null
	for unit in $enabled; do systemctl disable --quiet "$unit"; done 2>/dev/null
	printf '%s' "$made" | while IFS= read -r path; do rm -f "$path"; done
	failed=
	if revoked_since; then
		complain "a certificate was revoked meanwhile: $etc is left as it is" "do it again"
		failed=yes
	elif ! put_back; then
		complain "$etc could not be made what it was" "what it was is in $work"
		work=
		failed=yes
	fi
	for unit in $reloaded; do systemctl reload "$unit"; done 2>/dev/null
	case $tlshd_was in *enabled*) systemctl enable --quiet tlshd.service ;; esac
	case $tlshd_was in *active*) systemctl start tlshd.service ;; esac
	[ -z "$failed" ] || return 1
	complain "nothing was changed: what had been done is undone"
}

# write_file DIR NAME writes standard input, if that is news.
write_file() {
	cat >"$work/new" 2>>"$work/err" || return
	[ -f "$1/$2" ] && cmp -s "$work/new" "$1/$2" && return 0
	if ! mkdir -p "$(dirname "$1/$2")" || ! cp "$work/new" "$1/$2.new" || ! chmod 0644 "$1/$2.new" ||
		! sync "$1/$2.new" || ! mv "$1/$2.new" "$1/$2"; then
		rm -f "$1/$2.new"
		return 1
	fi 2>>"$work/err"
	say "wrote $1/$2"
}

# has_crl DIR tells whether there are lists of revoked certificates.
has_crl() {
	for file in "$1"/crl/*.pem "$1"/crl/*.crl; do
		[ ! -f "$file" ] || return 0
	done
	return 1
}

# settings DIR DAEMON IDENTITY writes the drop-in of a daemon, as it follows
# from what is there.
settings() {
	{
		say "# Written by rpctls-server-setup and rpctls-client-setup, which replace it whole."
		say "# Settings of your own belong into another file here, or into ../$2.toml."
		if [ -f "$1/$3.pem" ] && [ -f "$1/$3.key" ]; then
			say "certificate = \"$etc/$3.pem\""
			say "private_key = \"$etc/$3.key\""
		fi
		say "trust = \"$etc/ca.pem\""
		if has_crl "$1"; then
			say "crl = [\"$etc/crl\"]"
		fi
	} | write_file "$1" "$2.d/10-setup.toml"
}

# daemon_check DIR DAEMON lets the daemon judge, as the user that it will be. A
# rehearsal's configuration leads to its own files.
daemon_check() {
	config=$1/$2.toml
	if [ "$1" != "$etc" ]; then
		for file in "$1/$2.toml" "$1/$2.d"/*.toml; do
			[ -f "$file" ] || continue
			sed -i "s|$etc/|$1/|g" "$file" || return
		done
		# What no file says would be that of earnest.
		if [ "$2" = rpctlscd ] && ! grep -qs '^[[:space:]]*identity_directory' "$1/$2.toml" "$1/$2.d"/*.toml; then
			say "identity_directory = \"$1/identity\"" >"$1/$2.d/00-rehearsal.toml" || return
		fi
	fi
	"$2" -check -config "$config" >/dev/null 2>>"$work/err"
}

# identity_good NAME tells, after daemon_check, whether mounts may name it. A
# daemon goes on without.
identity_good() {
	! grep -q -e "warning: identity $1: .* mounts that name it are refused" -e 'warning: identity_directory: ' "$work/err"
}

timer=rpctls-cert-renew.timer

# with_timer DIR: is there something for the timer to renew, or to watch?
with_timer() {
	systemctl cat "$timer" >/dev/null 2>&1 || return
	[ ! -d "$1/ca" ] || return 0
	! has_crl "$1" || return 0
	for file in "$1"/*.key; do
		[ ! -f "$file" ] || return 0
	done
	return 1
}

# ---- services

# last_words of a unit's own processes, with what they follow.
last_words() {
	words=$(journalctl -q "_SYSTEMD_UNIT=$1" -n 1 -o cat 2>/dev/null)
	[ -z "$words" ] || say ": $words"
}

replace_agent() {
	[ -n "$agent" ] || return 0
	systemctl is-enabled --quiet tlshd.service 2>/dev/null && tlshd_was=enabled
	systemctl is-active --quiet tlshd.service && tlshd_was="$tlshd_was active"
	systemctl disable --quiet --now tlshd.service || die "tlshd cannot be stopped" "systemctl status tlshd"
	say "stopped and disabled tlshd"
}

# serve UNIT: it runs now, with what was written, and after every boot.
serve() {
	if ! systemctl is-enabled --quiet "$1" 2>/dev/null; then
		enabled="$enabled $1"
		systemctl enable --quiet "$1" 2>/dev/null || die "$1 cannot be enabled" "systemctl status $1"
		say "enabled $1"
	fi
	if systemctl is-active --quiet "$1"; then
		case $1 in *.timer) return ;; esac
		changed || return 0
		reloaded="$reloaded $1"
		# With Type=notify-reload this returns when it is done.
		systemctl reload "$1" 2>/dev/null || die "$1 does not reload$(last_words "$1")" "systemctl status $1"
		say "reloaded $1"
		return
	fi
	started="$started $1"
	# With Type=notify this returns when it is ready.
	if ! systemctl start "$1" 2>/dev/null || ! systemctl is-active --quiet "$1"; then
		die "$1 does not start$(last_words "$1")" "systemctl status $1"
	fi
	say "started $1"
}

# serve_all UNIT...
serve_all() {
	replace_agent
	for unit in "$@"; do
		serve "$unit" || return
	done
	! with_timer "$etc" || serve "$timer"
}

# would_serve UNIT... is serve_all in a dry run.
would_serve() {
	[ -z "$agent" ] || say "would stop and disable tlshd"
	! with_timer "$work/etc" || set -- "$@" "$timer"
	for unit in "$@"; do
		systemctl is-enabled --quiet "$unit" 2>/dev/null || say "would enable $unit"
		systemctl is-active --quiet "$unit" 2>/dev/null || say "would start $unit"
	done
}

# done_all says what is there if nothing had to be done, and that no undoing is
# wanted any more.
done_all() {
	if ! changed && [ -z "$started$enabled$reloaded$made$tlshd_was" ]; then
		say "everything was there already: nothing was changed"
	fi
	stage=
	missing_lists
}

# missing_lists warns where some CA may have no list of what it has revoked: as
# soon as there is any list, its peers are refused.
missing_lists() {
	has_crl "$etc" || return 0
	cas=$(grep -c -e '-----BEGIN CERTIFICATE-----' "$etc/ca.pem")
	lists=$(cat "$etc"/crl/*.pem "$etc"/crl/*.crl 2>/dev/null | grep -c -e '-----BEGIN X509 CRL-----')
	[ "$lists" -ge "$cas" ] || note "$etc/ca.pem names $cas CAs, and $etc/crl has the CRLs of $lists: whom the others certified is refused"
}

# diverted tells whether mount(8) reaches mount.nfstls for type nfs.
diverted() {
	case $(readlink -f "$(command -v mount.nfs)" 2>/dev/null) in
	*/mount.nfstls) return 0 ;;
	esac
	return 1
}

mount_command() { if diverted; then say "mount -o"; else say "mount -t nfstls -o"; fi; }

mount_type() { if diverted; then say nfs; else say nfstls; fi; }
