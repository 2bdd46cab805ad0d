# SPDX-License-Identifier: BSD-3-Clause
# What follows is packaging/deb/diversion.sh, in each script that needs it.
#
# mount.nfs of nfs-common is moved aside, to where mount.nfstls looks for it, and
# a link to mount.nfstls takes its place. The link is made here instead of being
# part of the package, because it may be there only while mount.nfstls is: from
# this package's configuration to its removal. At no time is mount.nfs missing.

# nfs-common owns its helper as /usr/sbin/mount.nfs, or, before Debian 13, as
# /sbin/mount.nfs. It is the same file, but dpkg compares names. Both are
# diverted; the one that is not nfs-common's goes elsewhere, since dpkg would
# delete what two names share when nfs-common moves from one to the other.
link=/usr/sbin/mount.nfs
dormant=usr-is-merged

# owned: the name by which nfs-common has it, if it is installed.
owned() {
	dpkg-query --listfiles nfs-common 2>/dev/null | grep -xE '(/usr)?/sbin/mount\.nfs' | head -n 1
}

# ours: whether mount.nfs is our link.
ours() { [ -L $link ] && [ "$(readlink $link)" = mount.nfstls ]; }

# undivert NAME: dpkg forgets our diversion of it.
undivert() {
	if [ "$(dpkg-divert --listpackage "$1")" = rpctls-mount ]; then
		dpkg-divert --quiet --package rpctls-mount --no-rename --remove "$1"
	fi
}

# divert NAME TO: dpkg has that diversion, whatever there was of ours.
divert() {
	if [ "$(dpkg-divert --listpackage "$1")" = rpctls-mount ] && [ "$(dpkg-divert --truename "$1")" = "$2" ]; then
		return 0
	fi
	undivert "$1"
	dpkg-divert --quiet --package rpctls-mount --no-rename --divert "$2" --add "$1"
}

# copy FROM TO: TO becomes FROM, in one step.
copy() {
	rm -f "$2.rpctls-new"
	ln "$1" "$2.rpctls-new" 2>/dev/null || cp -p "$1" "$2.rpctls-new"
	# Two names of one file: mv would leave both.
	if cmp -s "$2.rpctls-new" "$2"; then
		rm -f "$2.rpctls-new"
	else
		mv -f "$2.rpctls-new" "$2"
	fi
}

# on: from any state to the diverted one.
on() {
	name=$(owned)
	if [ -z "$name" ]; then
		echo "rpctls-mount: nfs-common has no mount.nfs" >&2
		exit 1
	fi
	if ! command -v mount.nfstls >/dev/null; then
		echo "rpctls-mount: there is no mount.nfstls" >&2
		exit 1
	fi
	if [ "$(readlink -f /sbin)" != "$(readlink -f /usr/sbin)" ]; then
		echo "rpctls-mount: /sbin is not /usr/sbin: this system needs usrmerge first" >&2
		exit 1
	fi
	case $name in
	/usr/*) other=/sbin/mount.nfs ;;
	*) other=/usr/sbin/mount.nfs ;;
	esac
	by=$(dpkg-divert --listpackage "$name")
	if [ -n "$by" ] && [ "$by" != rpctls-mount ]; then
		echo "rpctls-mount: $name is diverted already, by $by" >&2
		echo "hint: dpkg-divert --list $name" >&2
		exit 1
	fi
	here=$(dpkg-divert --truename "$name") # where the helper is now
	if [ -e "$here" ] && ! { [ "$here" = "$name" ] && ours; }; then
		copy "$here" $link.rpctls-real
	fi
	if ! [ -x $link.rpctls-real ]; then
		echo "rpctls-mount: there is no $here" >&2
		echo "hint: apt install --reinstall nfs-common" >&2
		exit 1
	fi
	undivert "$other"
	divert "$name" "$name.rpctls-real"
	divert "$other" "$other.rpctls-real.$dormant"
	rm -f $link.rpctls-real.$dormant
	if ! ours; then
		ln -sf mount.nfstls $link.rpctls-new
		mv -f $link.rpctls-new $link
	fi
	# Of an earlier time that was cut short.
	rm -f $link.rpctls-new $link.rpctls-real.rpctls-new
}

# off: from any state to that without this package.
off() {
	name=$(owned)
	here=$link.rpctls-real
	if [ -n "$name" ] && [ "$(dpkg-divert --listpackage "$name")" = rpctls-mount ]; then
		true=$(dpkg-divert --truename "$name")
		if [ -e "$true" ]; then
			here=$true
		fi
	fi
	if ours || ! [ -e $link ]; then
		if [ -e "$here" ]; then
			mv -f "$here" $link
		else
			rm -f $link # leads nowhere
		fi
	elif [ -e "$here" ] && ! cmp -s "$here" $link; then
		# An administrator has put something there. It stays, and so does what may
		# be the only copy of the helper: out of the way of another installation.
		mv -f "$here" $link.nfs-common
		echo "rpctls-mount: $link was replaced and is left as it is; that of nfs-common is $link.nfs-common" >&2
		echo "hint: mv $link.nfs-common $link brings it back" >&2
	fi
	undivert /usr/sbin/mount.nfs
	undivert /sbin/mount.nfs
	rm -f $link.rpctls-real $link.rpctls-real.$dormant $link.rpctls-new $link.rpctls-real.rpctls-new
}
# End of packaging/deb/diversion.sh.
