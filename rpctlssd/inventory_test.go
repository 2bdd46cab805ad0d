// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/forward"
)

// What is loaded is what is told, and when it runs out.
func TestInventory(t *testing.T) {
	dir := t.TempDir()
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "site CA"})
	now := time.Now()
	end := now.Add(240*time.Hour + time.Hour).Truncate(time.Second)
	put := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	identity := func(name string) string {
		d := filepath.Join(dir, name)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		ca.MustIssue(t, certstest.Options{CommonName: name, DNS: []string{name + ".test"}, NotAfter: end}).MustWriteFiles(t, d)
		return fmt.Sprintf("certificate = %q\nprivate_key = %q\n", d+"/cert.pem", d+"/key.pem")
	}
	made, next := now.Add(-100*time.Hour).Truncate(time.Second), now.Add(-time.Hour).Truncate(time.Second)
	c, err := load(t, identity("main")+fmt.Sprintf("trust = %q\ncrl = [%q]\n", put("ca.pem", ca.PEM()), put("list.crl", ca.MustCRL(t, nil, made, next)))+
		"[[identity]]\nmatch = [\"*.lab.test\", \"lab.test\"]\n"+identity("lab"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := build(c, new(certs.Files), forward.New(forward.System()))
	if err != nil {
		t.Fatal(err)
	}
	inv := l.Inventory(now)
	if len(inv.Identities) != 2 || len(inv.Trust) != 1 || len(inv.CRLs) != 1 {
		t.Fatalf("%+v", inv)
	}
	for i, want := range []string{"default CN=main [dns:main.test]", "name *.lab.test,lab.test CN=lab [dns:lab.test]"} {
		id := inv.Identities[i]
		if got := fmt.Sprintf("%s %s %v", id.Use, id.Subject, id.Names); got != want || id.DaysLeft != 10 || !id.NotAfter.Equal(end) {
			t.Errorf("%q, %d days left, %v; want %q", got, id.DaysLeft, id.NotAfter, want)
		}
	}
	if tr := inv.Trust[0]; tr.Use != "default" || tr.Anchors != 1 || fmt.Sprint(tr.Subjects) != "[CN=site CA]" {
		t.Errorf("%+v", tr)
	}
	if crl := inv.CRLs[0]; !crl.Stale || crl.AgeSeconds/3600 != 100 || crl.Issuer != "CN=site CA" || crl.Path != filepath.Join(dir, "list.crl") || crl.Revoked != 0 {
		t.Errorf("%+v", crl)
	}
	ids, crls := inv.Expiries()
	if len(ids) != 2 || ids[0].Name != "default" || !ids[0].At.Equal(end) || len(crls) != 1 || !crls[0].At.Equal(next) {
		t.Errorf("%+v, %+v", ids, crls)
	}
	if after := l.Inventory(end.Add(time.Hour)).Identities[0]; after.DaysLeft != -1 {
		t.Errorf("an hour after its end %d days are left", after.DaysLeft)
	}
}
