#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Sees to what building and testing need on a fresh Debian: Go and a C compiler
# (for the race detector; nothing that is shipped uses it). What is there is
# left alone, and nothing happens when nothing is missing. The VMs' tools are
# seen to by the tests that boot them.
set -eu
cd "$(dirname "$0")/.."

install() {
	echo "setup: installing $*"
	if [ "$(id -u)" != 0 ]; then
		echo "setup: please run as root, or install: $*" >&2
		exit 1
	fi
	apt-get -qq update >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# go_usable: any Go from 1.21 on fetches the version that go.mod asks for.
go_usable() {
	command -v go >/dev/null || return 1
	minor=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
	[ "${minor:-0}" -ge 21 ]
}

# Debian 12's own Go is too old; its backports' is not. A private set of lists
# leaves the system's sources as they are; the packages are unpacked beside the
# checkout's tools instead of being installed.
go_from_backports() {
	# shellcheck disable=SC2016 # apt's variable, not the shell's
	site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' | grep -v security | sort -u | head -n 1)
	. /etc/os-release
	dir=$PWD/.tools/apt
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" .tools/root
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $VERSION_CODENAME-backports main" >"$dir/sources.list"
	set -- -q -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$dir/lists" -o Dir::Cache="$dir/cache"
	apt-get "$@" update >/dev/null
	version=$(apt-cache "$@" depends golang-go | sed -n 's/.*Depends: \(golang-1[^ ]*\)-go$/\1/p' | head -n 1)
	(cd "$dir" && rm -f ./*.deb && apt-get "$@" download "$version-go" "$version-src" >/dev/null 2>&1)
	for deb in "$dir"/*.deb; do dpkg-deb -x "$deb" .tools/root; done
	rm -rf .tools/go
	mkdir -p .tools/go/bin
	lib=$PWD/.tools/root/usr/lib/go-${version#golang-}
	# Debian links the library's parts into /usr/share; make them plain again.
	for part in "$lib"/*; do
		if [ -L "$part" ]; then
			target=$(readlink "$part")
			rm "$part"
			ln -s "$PWD/.tools/root/usr/share/go-${version#golang-}/$(basename "$target")" "$part"
		fi
	done
	ln -s "$lib/bin/go" .tools/go/bin/go
	ln -s "$lib/bin/gofmt" .tools/go/bin/gofmt
}

PATH=$PWD/.tools/go/bin:$PATH
missing=
command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
command -v git >/dev/null || missing="$missing git"
command -v openssl >/dev/null || missing="$missing openssl" # judges our certificates
command -v mandoc >/dev/null || missing="$missing mandoc"   # judge the manual
command -v groff >/dev/null || missing="$missing groff-base" # pages
[ -e /usr/share/bash-completion/bash_completion ] || missing="$missing bash-completion"
command -v lintian >/dev/null || missing="$missing lintian" # judges the packages
command -v rpm >/dev/null || missing="$missing rpm"
command -v shellcheck >/dev/null || missing="$missing shellcheck"
command -v systemd-analyze >/dev/null || missing="$missing systemd" # judges the units
[ -d /etc/ssl/certs ] && [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || install $missing
if ! go_usable; then
	candidate=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/.*Candidate: 2:1\.\([0-9]*\).*/\1/p')
	if [ "${candidate:-0}" -ge 21 ]; then install golang-go; else
		echo "setup: fetching Go from backports"
		go_from_backports
	fi
	go_usable || { echo "setup: no Go 1.21 or later could be had: install one" >&2; exit 1; }
fi
