// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/forward"
)

// What a block sets is in use in its namespaces and nowhere else, the first block
// counts, and what it does not set is as for all.
func TestSpaces(t *testing.T) {
	dir := t.TempDir()
	cas := make(map[string]*certstest.CA)
	trust := func(name string) string {
		cas[name] = certstest.MustCA(t, certstest.CAOptions{CommonName: name})
		path := filepath.Join(dir, name+".pem")
		if err := os.WriteFile(path, cas[name].PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("trust = %q\n", path)
	}
	identity := func(name string) string {
		d := filepath.Join(dir, name)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		cas["all"].MustIssue(t, certstest.Options{CommonName: name, DNS: []string{name + ".test"}}).MustWriteFiles(t, d)
		return fmt.Sprintf("certificate = %q\nprivate_key = %q\n", d+"/cert.pem", d+"/key.pem")
	}
	block := func(match, text string) string { return "[[namespace]]\nmatch = [" + match + "]\n" + text }
	c, err := load(t, trust("all")+identity("main")+"namespaces = [\"host\", \"/run/netns/*\"]\n"+
		"[[identity]]\nmatch = [\"files.test\"]\n"+identity("files")+
		block(`"/run/netns/blue"`, identity("blue"))+
		block(`"/run/netns/b*", "/other"`, trust("tenant")))
	if err != nil {
		t.Fatal(err)
	}
	l, err := build(c, new(certs.Files), forward.New(forward.System()))
	if err != nil {
		t.Fatal(err)
	}
	client := make(map[string]*certstest.Pair)
	for name, ca := range cas {
		client[name] = ca.MustIssue(t, certstest.Options{CommonName: "client"})
	}
	for _, tt := range []struct {
		paths                 []string
		shown, named, trusted string
	}{
		{nil, "main", "files", "all"},
		{[]string{"/run/netns/red"}, "main", "files", "all"},
		{[]string{"/run/netns/blue"}, "blue", "blue", "all"},
		{[]string{"/run/netns/azure", "/run/netns/blue"}, "blue", "blue", "all"},
		{[]string{"/run/netns/brown"}, "main", "files", "tenant"},
		{[]string{"/other"}, "main", "files", "tenant"},
	} {
		in := l.in(tt.paths)
		for sni, want := range map[string]string{"": tt.shown, "files.test": tt.named} {
			cert, err := in.tls.GetCertificate(&tls.ClientHelloInfo{ServerName: sni})
			if err != nil || cert.Leaf.Subject.CommonName != want {
				t.Errorf("%v, %q: %v, %v; want %s", tt.paths, sni, cert.Leaf.Subject, err, want)
			}
		}
		for name, p := range client {
			_, err := in.trust.Verify(p.Chain(), certs.ClientAuth, "", time.Now())
			if (err == nil) != (name == tt.trusted) {
				t.Errorf("%v: a client of CA %s: %v", tt.paths, name, err)
			}
		}
	}
	var uses []string
	inv := l.Inventory(time.Now())
	for _, id := range inv.Identities {
		uses = append(uses, id.Use)
	}
	for _, tr := range inv.Trust {
		uses = append(uses, tr.Use)
	}
	if want := []string{"default", "name files.test", "namespace /run/netns/blue", "default", "namespace /run/netns/b*, /other"}; !slices.Equal(uses, want) {
		t.Errorf("inventory %q", uses)
	}
	if err := os.Remove(filepath.Join(dir, "tenant.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := build(c, new(certs.Files), forward.New(forward.System())); err == nil || !strings.Contains(err.Error(), "namespace /run/netns/b*, /other: ") {
		t.Errorf("without the file: %v", err)
	}
}
