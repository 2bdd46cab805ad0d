#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Installs rpctls from this directory, for systems without dpkg and rpm. Where
# these are, their packages do the same and more (mount -o tls, upgrades).
set -eu

usage() {
	cat <<END
usage: ./install.sh [--prefix DIR] [--dry-run]
       ./install.sh --uninstall [--prefix DIR] [--dry-run]

  --prefix DIR  where programs, units and manual pages go (default /usr/local);
                configuration is in /etc/rpctls always
  --uninstall   remove what was installed there; configuration that was edited,
                certificates and keys stay
  --dry-run     say what would be done

The environment's DESTDIR goes before all paths, for building packages; then no
user is made and no service is told.
END
}

fail() {
	echo "install.sh: $1" >&2
	[ $# -lt 2 ] || echo "hint: $2" >&2
	exit 1
}

prefix=/usr/local
uninstall=
dry=
while [ $# -gt 0 ]; do
	case $1 in
	--prefix=*) prefix=${1#--prefix=} ;;
	--prefix)
		if [ $# -lt 2 ]; then
			echo "install.sh: --prefix needs a directory" >&2
			exit 2
		fi
		prefix=$2
		shift
		;;
	--uninstall) uninstall=1 ;;
	--dry-run) dry=1 ;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		echo "install.sh: unknown argument $1" >&2
		echo "hint: ./install.sh --help" >&2
		exit 2
		;;
	esac
	shift
done
prefix=${prefix%/}
case $prefix in
/*) ;;
'') fail "the prefix must not be the root directory" "--prefix /usr" ;;
*) fail "the prefix $prefix is not absolute" ;;
esac
case $prefix in
*[!A-Za-z0-9/._+-]*) fail "the prefix $prefix has characters that units cannot have" ;;
esac

dest=${DESTDIR-}
dest=${dest%/}
here=$(cd "$(dirname "$0")" && pwd)
list=$dest$prefix/share/rpctls/installed-files
if [ -z "$dest" ] && [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then
	fail "this needs root" "sudo $0, or DESTDIR=DIR"
fi

# packaged: whether dpkg or rpm has put rpctls at the prefix.
packaged() {
	[ -z "$dest" ] || return 1
	dpkg-query --search "$prefix/sbin/rpctlsctl" >/dev/null 2>&1 || rpm -qf "$prefix/sbin/rpctlsctl" >/dev/null 2>&1
}
if packaged; then
	fail "rpctls is here as a package" "use the package manager, or another --prefix"
fi

# run: what changes something is shown in a dry run.
run() {
	if [ -n "$dry" ]; then
		echo "would: $*"
	else
		"$@"
	fi
}

systemd() { [ -z "$dest" ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

# remove_files: what a list of files names. Directories go when they are empty;
# configuration is not in the list.
remove_files() {
	while IFS= read -r file; do
		run rm -f "$dest$file"
	done
}

remove_directories() {
	for dir in "$prefix/share/rpctls/monitoring" "$prefix/share/rpctls" "$prefix/share/doc/rpctls" /etc/rpctls/rpctlscd.d /etc/rpctls/rpctlssd.d /etc/rpctls; do
		[ ! -d "$dest$dir" ] || run rmdir "$dest$dir" 2>/dev/null || :
	done
}

if [ -n "$uninstall" ]; then
	[ -f "$list" ] || fail "nothing is installed at $dest$prefix" "--prefix DIR, as it was installed"
	if systemd; then
		run systemctl disable --now rpctls-exporter.service rpctls-cert-renew.timer rpctlssd.service rpctlscd.service || :
	fi
	remove_files <"$list"
	for name in rpctlscd rpctlssd; do
		file=/etc/rpctls/$name.toml
		[ -f "$dest$file" ] || continue
		if cmp -s "$here/root$file" "$dest$file"; then
			run rm -f "$dest$file"
		else
			echo "kept: $dest$file"
		fi
	done
	run rm -f "$list"
	remove_directories
	! systemd || run systemctl daemon-reload || :
	[ ! -d "$dest/etc/rpctls" ] || echo "kept: $dest/etc/rpctls, with certificates and keys; and the user rpctls"
	echo "rpctls is uninstalled from $dest$prefix"
	exit 0
fi

[ -d "$here/root/usr/sbin" ] || fail "there is nothing beside me to install" "run it where the archive was unpacked"

# install_file FROM TO MODE: in one step, so that a program that runs is not
# written into. Units, scripts and documents name others by their paths.
install_file() {
	if [ -n "$dry" ]; then
		echo "would: install $2"
		return
	fi
	mkdir -p "$(dirname "$2")"
	case $1 in
	*.service | */sbin/rpctls-* | *.sh | *.md)
		sed "s,/usr/sbin/rpctls,$prefix/sbin/rpctls,g; s,/usr/share/rpctls/,$prefix/share/rpctls/,g" "$1" >"$2.new"
		;;
	*) cp "$1" "$2.new" ;;
	esac
	chmod "$3" "$2.new"
	mv -f "$2.new" "$2"
}

install_link() { # TARGET PATH
	if [ -n "$dry" ]; then
		echo "would: link $2 to $1"
		return
	fi
	mkdir -p "$(dirname "$2")"
	ln -sf "$1" "$2.new"
	mv -f "$2.new" "$2"
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
files=$(cd "$here/root" && find usr \( -type f -o -type l \) | LC_ALL=C sort)
for file in $files; do
	to=$prefix/${file#usr/}
	if [ -L "$here/root/$file" ]; then
		install_link "$(readlink "$here/root/$file")" "$dest$to"
	elif [ -x "$here/root/$file" ]; then
		install_file "$here/root/$file" "$dest$to" 0755
	else
		install_file "$here/root/$file" "$dest$to" 0644
	fi
	echo "$to" >>"$new"
done
# mount(8) looks for helpers in /sbin alone.
if [ "$prefix" != /usr ] && [ -e "$here/root/usr/sbin/mount.nfstls" ]; then
	for name in mount.nfstls umount.nfstls; do
		install_link "$prefix/sbin/mount.nfstls" "$dest/sbin/$name"
		echo "/sbin/$name" >>"$new"
	done
fi
for dir in /etc/rpctls /etc/rpctls/rpctlscd.d /etc/rpctls/rpctlssd.d; do
	[ -d "$dest$dir" ] || run mkdir -p "$dest$dir"
	run chmod 0755 "$dest$dir"
done
for name in rpctlscd rpctlssd; do
	file=/etc/rpctls/$name.toml
	if [ ! -e "$dest$file" ]; then
		install_file "$here/root$file" "$dest$file" 0644
	elif ! cmp -s "$here/root$file" "$dest$file"; then
		install_file "$here/root$file" "$dest$file.dist" 0644
		echo "kept: $dest$file; the new one is $file.dist"
		echo "$file.dist" >>"$new"
	fi
done
# What an earlier version had and this one has not.
if [ -f "$list" ]; then
	LC_ALL=C sort "$new" >"$new.sorted"
	LC_ALL=C sort "$list" | LC_ALL=C comm -23 - "$new.sorted" | remove_files
	rm -f "$new.sorted"
fi
install_file "$new" "$list" 0644

if [ -z "$dest" ]; then
	if command -v systemd-sysusers >/dev/null; then
		run systemd-sysusers "$prefix/lib/sysusers.d/rpctls.conf"
	elif ! grep -q '^rpctls:' /etc/passwd; then
		shell=/usr/sbin/nologin
		[ -x $shell ] || shell=/bin/false
		if command -v useradd >/dev/null; then
			run useradd --system --user-group --no-create-home --home-dir / --shell "$shell" rpctls
		else
			run adduser -S -D -H -h / -s "$shell" rpctls
			run addgroup -S rpctls 2>/dev/null || :
		fi
	fi
	if systemd; then
		run systemctl daemon-reload
		run systemd-tmpfiles --create "$prefix/lib/tmpfiles.d/rpctls.conf" || :
		run journalctl --update-catalog || :
		for unit in rpctlssd.service rpctlscd.service rpctls-cert-renew.timer rpctls-exporter.service; do
			run systemctl try-restart "$unit" || echo "install.sh: $unit could not be restarted: see journalctl -u $unit" >&2
		done
		if systemctl is-active --quiet tlshd.service; then
			echo "install.sh: tlshd is running and answers some of the kernel's requests instead" >&2
			echo "hint: systemctl disable --now tlshd" >&2
		fi
	elif [ ! -d /run/systemd/system ]; then
		echo "no systemd runs here: start $prefix/sbin/rpctlscd (client) and $prefix/sbin/rpctlssd (server)"
		echo "as root at boot, before mounts and the NFS server, with the module tls loaded"
	fi
fi
echo "rpctls is installed at $dest$prefix"
[ -n "$dest" ] || echo "next: rpctls-server-setup NAME, or rpctls-client-setup FILE"
