# SPDX-License-Identifier: BSD-3-Clause
#
# Makes up a host in a mount namespace of its own, and runs the script that is
# the third argument there: sh host.sh BINARIES SCRIPTS SCRIPT
#
# What is real: rpctlsctl, the daemons' -check as user rpctls, the files. What is
# not: systemctl (which keeps notes in /run/fake), journalctl, modprobe, DNS.
set -eu
binaries=$1
scripts=$2
script=$3

mount --make-rprivate /
mkdir -p /etc/rpctls
host=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$host"

# over FILE puts standard input in its place.
over() {
	name=$host/$(basename "$1")
	cat >"$name"
	mount --bind "$name" "$1"
}

{
	grep -v '^rpctls:' /etc/passwd
	echo rpctls:x:977:977::/:/usr/sbin/nologin
} | over /etc/passwd
{
	grep -v '^rpctls:' /etc/group
	echo rpctls:x:977:
} | over /etc/group
printf '%s\n' '127.0.0.1 localhost' '127.0.1.1 nfs.example.com nfs' '192.0.2.77 mistyped.example.com' | over /etc/hosts
printf 'hosts: files\npasswd: files\ngroup: files\n' | over /etc/nsswitch.conf

# kallsyms LINE... puts lines in place of /proc/kallsyms. As there, they are in a
# file that has size 0: what it is to hold is in the environment of a process.
symbols=
kallsyms() {
	if [ -n "$symbols" ]; then
		umount /proc/kallsyms
		kill "$symbols"
	fi
	env -i "X=$(printf '\n%s' "$@")
" sleep 600 </dev/null >/dev/null 2>&1 &
	symbols=$!
	until grep -qs sleep "/proc/$symbols/comm"; do :; done
	mount --bind "/proc/$symbols/environ" /proc/kallsyms
}
trap 'kill "$symbols"' EXIT
kallsyms '0 T vfs_read' '0 t handshake_nl_accept_doit'

mount -t tmpfs -o size=8m,mode=755 tmpfs /etc/rpctls
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
mkdir -p /run/systemd/system /run/fake /etc/rpctls/rpctlscd.d /etc/rpctls/rpctlssd.d "$host/home"
for file in "$binaries"/*; do
	: >"/usr/local/sbin/$(basename "$file")"
	mount --bind "$file" "/usr/local/sbin/$(basename "$file")"
done
cp "$scripts"/rpctls-* /usr/local/sbin/
cp "$scripts"/../config/*.toml /etc/rpctls/

printf '%s\n' 'systemd 257 (257.9-1~deb13u1)' '+PAM +AUDIT' >/run/fake/version

# fake NAME puts standard input where it is found first.
fake() {
	cat >"/usr/local/sbin/$1"
	chmod 0755 "/usr/local/sbin/$1"
}

fake modprobe <<'END'
#!/bin/sh
exit 0
END
fake journalctl <<'END'
#!/bin/sh
echo 'what the journal says'
END
fake systemctl <<'END'
#!/bin/sh
verb=$1
shift
if [ "$verb" = --version ]; then
	cat /run/fake/version
	exit
fi
now=
for arg; do
	case $arg in
	--now) now=yes ;;
	-*) ;;
	*) unit=${arg%.service} ;;
	esac
done
cd /run/fake
case $verb in
is-active | is-enabled) ;;
cat) ;;
*) echo "$verb $unit" >>log ;;
esac
case $verb in
cat) case $unit in rpctls*) ;; *) exit 1 ;; esac ;;
is-active) [ -e "active.$unit" ] ;;
is-enabled) [ -e "enabled.$unit" ] ;;
enable)
	[ ! -e "broken-enable.$unit" ] || exit 1
	: >"enabled.$unit"
	;;
disable)
	rm -f "enabled.$unit"
	[ -z "$now" ] || rm -f "active.$unit"
	;;
start | reload)
	[ ! -e "broken.$unit" ] || exit 1
	case $unit in rpctls?d) "$unit" -check >/dev/null || exit 1 ;; esac
	: >"active.$unit"
	;;
stop) rm -f "active.$unit" ;;
esac
END

# An NFS server and client, as far as the scripts look for them.
echo 'xprtsec=' | fake exportfs
fake mount.nfstls </dev/null
ln -s mount.nfstls /usr/local/sbin/mount.nfs

cd "$host/home"
# shellcheck disable=SC1090 # whatever the test wants
. "$script"
