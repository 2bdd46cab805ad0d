// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// What root alone may read cannot be read there, and can afterwards.
func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "key")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var inside error
	uid, groups := -1, []int(nil)
	if err := As("nobody", func() {
		_, inside = os.ReadFile(name)
		uid = os.Geteuid()
		groups, _ = os.Getgroups()
	}); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(inside, fs.ErrPermission) || uid == 0 || uid == -1 {
		t.Errorf("as uid %d in groups %v: %v", uid, groups, inside)
	}
	if _, err := os.ReadFile(name); err != nil || os.Geteuid() != 0 {
		t.Errorf("afterwards, as uid %d: %v", os.Geteuid(), err)
	}
	if err := As("no-such-user-here", func() { t.Error("it ran") }); err == nil {
		t.Error("a user who does not exist")
	}
	ran := false
	if err := As("root", func() { ran = os.Geteuid() == 0 }); err != nil || !ran {
		t.Errorf("%v, %v", ran, err)
	}
}
