// SPDX-License-Identifier: BSD-3-Clause

package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"rpctls/rpctlsctl/cli"
)

type several struct{}

func (several) Error() string   { return "a; b" }
func (several) Lines() []string { return []string{"a", "b"} }

func TestRun(t *testing.T) {
	asRoot := "hint: run it as root\n"
	if os.Geteuid() == 0 {
		asRoot = "" // it is
	}
	tests := []struct {
		name string
		err  error
		code int
		want string
	}{
		{"success", nil, cli.OK, ""},
		{"failure", errors.New("no"), cli.Failed, "tool: no\n"},
		{"usage", cli.Usagef("no such %s", "thing"), cli.Usage, "tool: no such thing\nhint: tool do --help\n"},
		{"usage with a hint", cli.Hint(cli.Usagef("no"), "try %d", 2), cli.Usage, "tool: no\nhint: try 2\n"},
		{"a code of its own", cli.Exit(3, errors.New("no")), 3, "tool: no\n"},
		{"a code and nothing to say", cli.Exit(3, nil), 3, ""},
		{"a hint within", fmt.Errorf("x: %w", cli.Hint(errors.New("no"), "yes")), cli.Failed, "tool: x: no\nhint: yes\n"},
		{"permission", fmt.Errorf("x: %w", fs.ErrPermission), cli.Failed, "tool: x: permission denied\n" + asRoot},
		{"full", &fs.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}, cli.Failed, "tool: write f: no space left on device\nhint: make room on that file system, then do it again\n"},
		{"read-only", syscall.EROFS, cli.Failed, "tool: read-only file system\nhint: that file system is mounted read-only\n"},
		{"several", cli.Hint(several{}, "c"), cli.Failed, "tool: a\ntool: b\nhint: c\n"},
		{"joined", errors.Join(errors.New("a"), errors.New("b")), cli.Failed, "tool: a; b\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			do := &cobra.Command{Use: "do", Args: cli.Args(0, 0, "none"), RunE: func(*cobra.Command, []string) error { return tt.err }}
			var out bytes.Buffer
			code := cli.Run(cli.Group("tool", "", do), []string{"do"}, &out)
			if diff := cmp.Diff(tt.want, out.String()); diff != "" || code != tt.code {
				t.Errorf("code %d, want %d (-want +got):\n%s", code, tt.code, diff)
			}
		})
	}
}

func TestHintOfNothing(t *testing.T) {
	if err := cli.Hint(nil, "x"); err != nil {
		t.Error(err)
	}
}
