#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs inside the VM. Every step prints what it shows, and the script fails
# where the proof does.
set -euo pipefail

step() { printf '\n== %s\n' "$*"; }
indent() { sed 's/^/    /'; }
try() { # prints a command and runs it
	printf '  $ %s\n' "$*"
	"$@" 2>&1 | indent
}
waitfor() { # a condition, for at most 20 s
	for _ in $(seq 200); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.1
	done
	echo "demo: gave up on: $*" >&2
	exit 1
}

exec 2>&1
cd /tmp
echo '127.0.0.1 nfs.example.com' >>/etc/hosts
modprobe -a tls nfsd tcp_diag

step "1. the kernel's NFS server, on Linux $(uname -r)"
mkdir -p /srv/export /mnt/nfs /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs sunrpc /run/rpc_pipefs
echo 10 >/proc/fs/nfsd/nfsv4gracetime
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo '/srv/export *(rw,no_root_squash,xprtsec=mtls)' >/etc/exports
nfsdcld -F >nfsdcld.log 2>&1 &
try cat /etc/exports
try exportfs -ra
try rpc.nfsd -N 3 8
rpc.mountd -F >mountd.log 2>&1 &

step "2. both daemons"
for d in rpctlscd:client rpctlssd:server; do
	name=${d%:*} who=${d#*:}
	printf 'trust = "/payload/certs/ca.pem"\ncertificate = "/payload/certs/%s.pem"\nprivate_key = "/payload/certs/%s.key"\n' $who $who >$name.toml
	try $name -check -config /tmp/$name.toml
	$name -config /tmp/$name.toml >$name.log 2>&1 &
done
for name in rpctlscd rpctlssd; do
	waitfor grep -q 'ready' $name.log
	grep ready $name.log | indent
done

step "3. a mount with mutual TLS, while the wire is watched"
tcpdump -i lo -s 0 -U -w wire.pcap port 2049 >tcpdump.log 2>&1 &
dump=$!
waitfor grep -q listening tcpdump.log
try mount -t nfs -o vers=4.2,xprtsec=mtls nfs.example.com:/srv/export /mnt/nfs
words="the quick brown fox carries nobody's secrets in clear"
for _ in $(seq 20000); do echo "$words"; done >/tmp/original
try cp /tmp/original /mnt/nfs/secret-plans.txt
sync
echo 3 >/proc/sys/vm/drop_caches
try cmp /tmp/original /mnt/nfs/secret-plans.txt
try cmp /tmp/original /srv/export/secret-plans.txt
echo "    written and read back: equal"

step "4. the proof: what the kernel says of the connection"
printf '  $ ss -tnie dst nfs.example.com:2049\n'
ss -tnieHO 'dport = :2049' | grep -o 'tcp-ulp-tls.*' | tee ulp | indent
grep -q 'version: 1.3 cipher: .* rxconf: sw txconf: sw' ulp
printf '  $ cat /proc/net/tls_stat\n'
grep -E 'CurrTxSw|CurrRxSw|DecryptError' /proc/net/tls_stat | indent
grep -qE 'TlsDecryptError[[:space:]]+0$' /proc/net/tls_stat

step "5. the proof: what the daemons say"
grep -h 'handshake success' rpctlscd.log rpctlssd.log | fold -s -w 100 | indent
grep -q 'handshake success.*subject="\?CN=client1.example.com' rpctlssd.log
grep -q 'handshake success.*subject="\?CN=nfs.example.com' rpctlscd.log

step "6. the proof: what was on the wire"
umount /mnt/nfs
# What a capture holds back is written when it ends.
kill -INT $dump
wait $dump || true
size=$(stat -c %s wire.pcap)
[ "$size" -gt 1000000 ]
for secret in "quick brown fox" secret-plans.txt; do
	printf '  $ grep -c %q wire.pcap\n' "$secret"
	n=$(grep -ac -- "$secret" wire.pcap || true)
	echo "    $n"
	[ "$n" = 0 ]
done
echo "    a capture of $size bytes holds neither the file's words nor its name"

step "mutual TLS, done by the kernel; the daemons may go home"
