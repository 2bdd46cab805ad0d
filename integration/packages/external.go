// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// send brings a file of this machine to a host's root directory.
func (s *story) send(t *testing.T, h *host, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o, err := h.Run("cat >'"+filepath.Base(file)+"'", data, limit)
	if err == nil && o.Code != 0 {
		err = errors.New(o.Text)
	}
	if err != nil {
		t.Fatalf("%s: %v", h.name, err)
	}
}

// remove: without our packages everything is as it was before them, but for
// keys and certificates.
func (s *story) remove(t *testing.T) {
	s.client1.must(t, "systemctl stop auto.automount; umount -a -t nfs,nfs4; sed -i '/export/d' /etc/fstab; systemctl daemon-reload")
	keys := make(map[*host]string)
	const list = "find /etc/rpctls \\( -name '*.key' -o -name '*.pem' -o -name index \\) -type f -exec sha256sum {} + | sort"
	hosts := []*host{s.server, s.client1}
	for _, h := range hosts {
		keys[h] = h.must(t, list)
		if strings.Count(keys[h], "\n") < 2 {
			t.Fatalf("%s: no keys to keep:\n%s", h.name, keys[h])
		}
	}
	// mount -t nfstls does without the diversion.
	s.client1.must(t, "apt-get -q remove -y rpctls-mount")
	s.putBack(t, s.client1)
	s.client1.must(t, "mount -t nfstls nfs.example.com:/export /mnt")
	s.encrypted(t, s.client1, "/mnt", "mtls")
	s.client1.must(t, "umount /mnt")

	s.everywhere(t, hosts, func(t *testing.T, h *host) {
		h.must(t, "apt-get -q remove -y rpctls rpctls-mount")
		s.putBack(t, h)
		if now := h.must(t, list); now != keys[h] {
			t.Errorf("%s: removal has changed keys or certificates:\n%s", h.name, difference(keys[h], now))
		}
		if said := h.run(t, "systemctl is-active rpctlscd rpctlssd rpctls-cert-renew.timer").Stdout; said != "inactive\ninactive\ninactive\n" {
			t.Errorf("%s: still there: %s", h.name, said)
		}
		h.must(t, "apt-get -q purge -y rpctls rpctls-mount")
		s.putBack(t, h)
		if now := h.must(t, list); now != keys[h] {
			t.Errorf("%s: purging has changed keys or certificates:\n%s", h.name, difference(keys[h], now))
		}
		left := h.must(t, `find /etc /usr /lib /var/lib /run \( -path /run/systemd -o -path /run/udev -o -path /etc/rpctls \) -prune -o -iname '*rpctls*' -print |
			grep -v -e /etc/systemd/system/rpctls-payload -e /etc/systemd/system/multi-user.target.wants/rpctls-payload || true`)
		if left != "" {
			t.Errorf("%s: purging has left\n%s", h.name, left)
		}
		if failed := h.must(t, "systemctl --failed --no-legend"); failed != "" {
			t.Errorf("%s: failed are\n%s", h.name, failed)
		}
	})
	s.plainBeside(t)
}

// putBack fails the test unless mount.nfs is Debian's.
func (s *story) putBack(t *testing.T, h *host) {
	t.Helper()
	// What the image leaves out on purpose is not missed.
	if said := h.must(t, "dpkg -V nfs-common | grep -v -e /usr/share/doc -e /usr/share/man || true"); said != "" {
		t.Errorf("%s: dpkg -V nfs-common says\n%s", h.name, said)
	}
	if said := h.must(t, "dpkg-divert --list '*mount.nfs*'; ls /usr/sbin | grep -e rpctls-real -e rpctls-new || true"); said != "" {
		t.Errorf("%s: of the diversion is left\n%s", h.name, said)
	}
	if said := h.must(t, "readlink -f /sbin/mount.nfs; readlink -f /sbin/umount.nfs4"); said != "/usr/sbin/mount.nfs\n/usr/sbin/mount.nfs\n" {
		t.Errorf("%s: mount.nfs is %s", h.name, said)
	}
}

// caConfig is that of an existing CA: a root, and an intermediate that signs.
const caConfig = `
[ca]
default_ca = sub
[sub]
dir = /root/ca
database = $dir/index
serial = $dir/serial
crlnumber = $dir/crlnumber
new_certs_dir = $dir/new
certificate = $dir/sub.pem
private_key = $dir/sub.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
copy_extensions = copy
x509_extensions = leaf
unique_subject = no
[root]
database = /root/ca/root.index
crlnumber = /root/ca/crlnumber
certificate = /root/ca/root.pem
private_key = /root/ca/root.key
default_md = sha256
default_crl_days = 30
[any]
commonName = optional
[leaf]
basicConstraints = CA:false
keyUsage = digitalSignature
[root_ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[sub_ca]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[req]
distinguished_name = name
[name]
`

// externalCA: everything again, from nothing, with a CA that exists.
func (s *story) externalCA(t *testing.T) {
	ca := s.client2 // which has nothing to do any more
	ca.must(t, "mkdir -p ca/new && touch ca/index ca/root.index && echo 1000 >ca/serial && echo 01 >ca/crlnumber")
	ca.write(t, "ca/config", caConfig)
	ca.must(t, `cd ca && export OPENSSL_CONF=/root/ca/config
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -days 3650 -subj '/CN=Example Root' -extensions root_ca
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout sub.key -out sub.csr -subj '/CN=Example Issuing CA'
		openssl x509 -req -in sub.csr -CA root.pem -CAkey root.key -CAcreateserial -days 1825 -extfile config -extensions sub_ca -out sub.pem
		openssl ca -config config -name root -gencrl -out root.crl
		openssl ca -config config -gencrl -out sub.crl`)
	s.everywhere(t, []*host{s.server, s.client1}, func(t *testing.T, h *host) { h.must(t, "rm -rf /etc/rpctls; "+apt) })
	// signed brings a request to the CA and its answer back.
	signed := func(h *host, request string) {
		t.Helper()
		h.copyTo(t, ca, request, "ca/request.csr")
		ca.must(t, "cd ca && openssl ca -batch -notext -config config -in request.csr -out answer.pem")
		for _, f := range []string{"answer.pem", "sub.pem", "root.pem"} {
			ca.copyTo(t, h, "ca/"+f, f)
		}
	}
	s.server.must(t, "rpctls-server-setup --csr-only nfs.example.com")
	signed(s.server, "/etc/rpctls/request/server/request.csr")
	s.server.unchanged(t, s.server.state(t), "importing without the intermediate", func() {
		s.server.refused(t, 1, "rpctls-server-setup --import answer.pem root.pem", "chain incomplete")
	})
	for _, f := range []string{"root.crl", "sub.crl"} {
		ca.copyTo(t, s.server, "ca/"+f, f)
	}
	s.server.must(t, "rpctls-server-setup --crl root.crl --crl sub.crl --import answer.pem sub.pem root.pem")
	s.server.must(t, "exportfs -ra")

	s.client1.must(t, "rpctls-client-setup --csr-only client1.example.com")
	signed(s.client1, "/etc/rpctls/request/client/request.csr")
	s.client1.must(t, "rpctls-client-setup --import answer.pem sub.pem root.pem")
	s.client1.must(t, "mount -o tls nfs.example.com:/export /mnt")
	s.encrypted(t, s.client1, "/mnt", "mtls")
	old := s.client1.fingerprint(t, "/etc/rpctls/client.pem")
	s.accepted(t, 0, s.client1, old)

	// Renewed, by the same way.
	connects := s.client1.connects(t, "/mnt")
	s.written(t, s.client1, "/mnt", func() {
		s.client1.must(t, "rpctls-client-setup --csr-only client1.example.com")
		signed(s.client1, "/etc/rpctls/request/client/request.csr")
		s.client1.must(t, "rpctls-client-setup --import answer.pem sub.pem root.pem")
		renewed := s.client1.fingerprint(t, "/etc/rpctls/client.pem")
		if renewed == old {
			t.Fatal("the certificate is the old one")
		}
		n := len(s.server.handshakes(t, "rpctlssd"))
		s.client1.must(t, "mount -o tls,vers=4.1 nfs.example.com:/export /new")
		s.accepted(t, n, s.client1, renewed)
		s.client1.must(t, "umount /new")
	})
	if now := s.client1.connects(t, "/mnt"); now != connects {
		t.Errorf("the mount's connection was made %s times, before %s", now, connects)
	}

	// Revoked.
	s.client1.must(t, "umount /mnt")
	s.client1.copyTo(t, ca, "/etc/rpctls/client.pem", "ca/revoked.pem")
	ca.must(t, "cd ca && openssl ca -config config -revoke revoked.pem && openssl ca -config config -gencrl -out sub.crl")
	ca.copyTo(t, s.server, "ca/sub.crl", "sub.crl")
	s.server.must(t, "cp sub.crl /etc/rpctls/crl/ && systemctl reload rpctlssd")
	s.client1.refused(t, 32, "mount -o tls nfs.example.com:/export /mnt", "revoked", "hint: ")
}
