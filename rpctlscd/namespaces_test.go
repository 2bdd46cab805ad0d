// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
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
		"[[server]]\nmatch = [\"lab.test\"]\n"+identity("lab")+
		block(`"/run/netns/blue"`, identity("blue"))+
		block(`"/run/netns/b*", "/other"`, trust("tenant")))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Build(c, new(certs.Files))
	if err != nil {
		t.Fatal(err)
	}
	server := make(map[string]*certstest.Pair)
	for name, ca := range cas {
		server[name] = ca.MustIssue(t, certstest.Options{DNS: []string{"nfs.test"}})
	}
	for _, tt := range []struct {
		paths                []string
		shown, labs, trusted string
	}{
		{nil, "main", "lab", "all"},
		{[]string{"/run/netns/red"}, "main", "lab", "all"},
		{[]string{"/run/netns/blue"}, "blue", "lab", "all"},
		{[]string{"/run/netns/azure", "/run/netns/blue"}, "blue", "lab", "all"},
		{[]string{"/run/netns/brown"}, "main", "lab", "tenant"},
		{[]string{"/other"}, "main", "lab", "tenant"},
	} {
		for host, want := range map[string]string{"nfs.test": tt.shown, "lab.test": tt.labs} {
			srv := find(l.in(tt.paths), host)
			if got := srv.identity.Certificate().Leaf.Subject.CommonName; got != want {
				t.Errorf("%v, %s: %s; want %s", tt.paths, host, got, want)
			}
			for name, p := range server {
				_, err := srv.judge(p.Chain(), "nfs.test", time.Now())
				if (err == nil) != (name == tt.trusted) {
					t.Errorf("%v: a server of CA %s: %v", tt.paths, name, err)
				}
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
	if want := []string{"default", "server lab.test", "namespace /run/netns/blue", "default", "namespace /run/netns/b*, /other"}; !slices.Equal(uses, want) {
		t.Errorf("inventory %q", uses)
	}
	if n := len(l.Identities()); n != 3 {
		t.Errorf("%d identities", n)
	}
	if n := len(l.Trusts()); n != 2 {
		t.Errorf("%d trusts", n)
	}
}
