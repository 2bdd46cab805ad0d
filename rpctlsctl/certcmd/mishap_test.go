// SPDX-License-Identifier: BSD-3-Clause

package certcmd_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/internal/durable"
	"rpctls/internal/durable/durabletest"
	"rpctls/rpctlsctl/certcmd"
)

// A host runs commands in a directory of its own.
type host struct {
	t   *testing.T
	dir string
	env certcmd.Env
}

func newHost(t *testing.T) *host {
	return &host{t: t, dir: durabletest.TempDir(t), env: certcmd.Env{
		Now:        time.Now,
		KeyGroup:   func() int { return 0 },
		Hostname:   func() string { return "testhost" },
		Passphrase: func(string) (string, error) { return "", errors.New("nobody to ask") },
	}}
}

// run replaces "@" in the arguments by the host's directory.
func (h *host) run(line string) (string, error) {
	cmd := certcmd.New(h.env)
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append(strings.Fields(strings.ReplaceAll(line, "@", h.dir)), "--dir", h.dir+"/etc"))
	err := cmd.Execute()
	return out.String(), err
}

func (h *host) must(lines ...string) {
	h.t.Helper()
	for _, line := range lines {
		if out, err := h.run(line); err != nil {
			h.t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

// tree lists all files and links with their content.
func (h *host) tree() map[string]string {
	h.t.Helper()
	got := make(map[string]string)
	err := filepath.WalkDir(h.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(h.dir, path)
		switch {
		case d.IsDir():
			got[name] = "directory"
		case d.Type()&os.ModeSymlink != 0:
			got[name], err = os.Readlink(path)
		default:
			var b []byte
			b, err = os.ReadFile(path)
			got[name] = string(b)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return got
}

// inUse is what a daemon finds under the name of an identity, "" for nothing.
func (h *host) inUse(name string) string {
	h.t.Helper()
	cert, key := h.dir+"/etc/"+name+".pem", h.dir+"/etc/"+name+".key"
	if _, err := os.Stat(cert); errors.Is(err, os.ErrNotExist) {
		return ""
	}
	id, err := certs.LoadIdentity(new(certs.Files), cert, key)
	if err != nil {
		h.t.Errorf("a daemon finds: %v", err)
		return "broken"
	}
	return id.Fingerprint()
}

// Every command, with every step of it failing once, by a full disk and by a
// crash: what is in use is always whole, a full disk before the certificate was
// issued leaves everything as it was, and the same command again succeeds.
func TestMishaps(t *testing.T) {
	base := newHost(t)
	base.must("init --name first",
		"server nfs.example.com",
		"client client1.example.com --days 30",
		"bundle client1.example.com -o @/one.bundle",
		"import --bundle @/one.bundle",
		"client client2.example.com",
		"bundle client2.example.com -o @/two.bundle",
		"request server new.example.com --as new")
	for _, tt := range []struct {
		line  string
		later int    // days
		again string // what the error of doing it again may say
	}{
		{line: "init --ca-dir @/second --name second", again: "a CA is there already"},
		{line: "server other.example.com"},
		{line: "server lab.example.com --as lab"},
		{line: "client client3.example.com"},
		{line: "revoke client1.example.com"},
		{line: "crl -o @/crl.pem"},
		{line: "renew client2.example.com"},
		{line: "renew --due", later: 25},
		{line: "import --bundle @/two.bundle --force"},
		{line: "import --bundle @/two.bundle --as second"},
		{line: "request client client4.example.com"},
		{line: "sign @/etc/request/new/request.csr --yes -o @/new.pem", again: "exists"},
		{line: "bundle client2.example.com -o @/three.bundle", again: "exists"},
	} {
		t.Run(strings.Fields(tt.line)[0], func(t *testing.T) {
			durabletest.Each(func(m *durabletest.Mishap) {
				h := newHost(t)
				if out, err := exec.Command("cp", "-a", base.dir+"/.", h.dir).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				h.env.Now = func() time.Time { return time.Now().AddDate(0, 0, tt.later) }
				before := h.tree()
				server, client := h.inUse("server"), h.inUse("client")

				h.env.Step = m.Disk().Step
				_, err := h.run(tt.line)
				h.env.Step = nil

				failed := h.tree()
				if tt.line != "renew --due" && err == nil && m.What != "" && !strings.HasPrefix(m.What, "remove") {
					t.Errorf("%v: no error", m)
				}
				if err != nil && !m.Crash && failed["etc/ca/index"] == before["etc/ca/index"] && !strings.HasPrefix(m.What, "sync directory") && !strings.HasPrefix(m.What, "rename") {
					if diff := cmp.Diff(before, failed); diff != "" {
						t.Errorf("%v: %v, but (-before +after):\n%s", m, err, diff)
					}
				}
				if got := h.inUse("server"); got == "" || got != server && !strings.HasPrefix(tt.line, "server other") {
					t.Errorf("%v: server is now %q", m, got)
				}
				if got := h.inUse("client"); got == "" || got != client && !strings.HasPrefix(tt.line, "import") && tt.later == 0 {
					t.Errorf("%v: client is now %q", m, got)
				}
				if _, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: h.dir + "/etc/ca.pem", CRL: []string{h.dir + "/etc/ca/crl.pem"}}); err != nil {
					t.Errorf("%v: a daemon's trust: %v", m, err)
				}
				c, openErr := ca.Open(ca.Env{Disk: new(durable.Disk), Now: h.env.Now}, h.dir+"/etc/ca")
				if openErr != nil {
					t.Fatalf("%v: %v", m, openErr)
				}
				c.Close()
				if _, err := h.run(tt.line); err != nil && (tt.again == "" || !strings.Contains(err.Error(), tt.again)) {
					t.Errorf("%v, then again: %v", m, err)
				}
				for name := range h.tree() {
					if strings.Contains(name, ".rpctls-new-") && (strings.HasPrefix(name, "etc/") || strings.HasPrefix(name, "second")) {
						t.Errorf("%v, then again: %s is left", m, name)
					}
				}
			})
		})
	}
}
