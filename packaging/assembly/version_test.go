// SPDX-License-Identifier: BSD-3-Clause

package assembly

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestVersionsAscend: what is built later is an upgrade, in the eyes of dpkg
// and, where it is here, of rpm.
func TestVersionsAscend(t *testing.T) {
	const hash = "abcdef0123456789"
	at := time.Date(2026, 11, 26, 13, 0, 0, 0, time.UTC)
	commits := []struct {
		Commit
		want string
	}{
		{Commit{Hash: hash, Time: at}, "0.1.0~git20261126130000.abcdef0"},
		{Commit{Hash: hash, Time: at, Dirty: true}, "0.1.0~git20261126130000.abcdef0.dirty"},
		{Commit{Hash: "0" + hash, Time: at.Add(time.Second)}, "0.1.0~git20261126130001.0abcdef"},
		{Commit{Hash: hash, Time: at.Add(time.Hour), Tag: "v0.1.0"}, "0.1.0"},
		{Commit{Hash: hash, Time: at.Add(2 * time.Hour), Tag: "v0.1.0", After: 1}, "0.1.0+git20261126150000.abcdef0"},
		{Commit{Hash: hash, Time: at.Add(3 * time.Hour), Tag: "v0.1.0", After: 2}, "0.1.0+git20261126160000.abcdef0"},
		{Commit{Hash: hash, Time: at.Add(4 * time.Hour), Tag: "v0.1.1"}, "0.1.1"},
	}
	for i, c := range commits {
		got := c.Version()
		if got != c.want || !versionForm.MatchString(got) {
			t.Errorf("%+v: %q, want %q", c.Commit, got, c.want)
		}
		if i == 0 {
			continue
		}
		before := commits[i-1].Version()
		if err := exec.Command("dpkg", "--compare-versions", before, "lt", got).Run(); err != nil {
			t.Errorf("dpkg: %s is not before %s: %v", before, got, err)
		}
		out, err := exec.Command("rpm", "--eval", `%{lua:print(rpm.vercmp("`+before+`","`+got+`"))}`).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "-1" {
			t.Errorf("rpm: %s and %s compare as %q, %v", before, got, out, err)
		}
	}
}

func TestStamp(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	// No repository is needed when both are given.
	version, at, err := Stamp(t.Context(), t.TempDir(), "1.2~rc1")
	if err != nil || version != "1.2~rc1" || at.Unix() != 1700000000 {
		t.Errorf("%q, %v, %v", version, at, err)
	}
	for _, bad := range []string{"1.0-1", "v1", "1 0", "1.0~", "../1", "1:1"} {
		if version, _, err := Stamp(t.Context(), t.TempDir(), bad); err == nil {
			t.Errorf("version %q is taken: %q", bad, version)
		}
	}
	if version, _, err := Stamp(t.Context(), t.TempDir(), ""); err == nil {
		t.Errorf("without a repository the version is %q", version)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, _, err := Stamp(t.Context(), t.TempDir(), "1"); err == nil {
		t.Error("yesterday is a time")
	}
}

// TestMissingPartsAreNamed: nothing is built, and nothing that was built is
// removed, when the repository lacks what belongs into the packages.
func TestMissingPartsAreNamed(t *testing.T) {
	out := t.TempDir()
	b := &Build{Root: t.TempDir(), Out: out, Version: "1", Arches: Arches}
	err := b.Run(t.Context())
	if err == nil {
		t.Fatal("packages of nothing")
	}
	for _, name := range []string{"cmd/mount.nfstls", "packaging/scripts/rpctls-server-setup", "packaging/man/rpctls.7", "packaging/systemd/rpctls-cert-renew.timer"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not in %q", name, err)
		}
	}
}
