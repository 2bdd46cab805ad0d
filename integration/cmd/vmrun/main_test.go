// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/integration/vm"
)

func TestTakeAlong(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x.test", "tool"} {
		if err := os.WriteFile(name, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		command []string
		want    []string
		payload []string
		timeout time.Duration
	}{
		{"program of the guest", []string{"uname", "-a"}, []string{"uname", "-a"}, nil, time.Minute},
		{"path that both have", []string{"/bin/sh", "-c", "x"}, []string{"/bin/sh", "-c", "x"}, nil, time.Minute},
		{"path that only the guest has", []string{"/payload/bin/x"}, []string{"/payload/bin/x"}, nil, time.Minute},
		{"program of the host", []string{"./tool", "-test.timeout=9h"}, []string{"/payload/bin/tool", "-test.timeout=9h"}, []string{"bin/tool"}, time.Minute},
		{
			"test binary",
			[]string{filepath.Join(dir, "x.test"), "-test.v=true", "-test.testlogfile=/x", "-test.timeout=2m0s"},
			[]string{"/payload/bin/x.test", "-test.v=true", "-test.timeout=2m0s"},
			[]string{"bin/x.test", "work/testdata"}, 2*time.Minute + 30*time.Second,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := vm.Options{Timeout: time.Minute, Payload: make(map[string]vm.Source)}
			if err := takeAlong(&o, tt.command); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(o.Command, tt.want) {
				t.Errorf("command is %q, want %q", o.Command, tt.want)
			}
			if got := slices.Sorted(maps.Keys(o.Payload)); !slices.Equal(got, tt.payload) {
				t.Errorf("payload is %q, want %q", got, tt.payload)
			}
			if o.Timeout != tt.timeout {
				t.Errorf("limit is %v, want %v", o.Timeout, tt.timeout)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		code int
		said string
		err  string
	}{
		{"help", []string{"-help"}, 0, "examples:", ""},
		{"kernels", []string{"-help"}, 0, "(6.12, 7.2)", ""},
		{"no command", nil, harnessFailed, "", "no command; see vmrun -help"},
		{"bad file", []string{"-file", "x", "true"}, harnessFailed, "want guest=host", ""},
		{"bad flag", []string{"-nosuch"}, harnessFailed, "not defined: -nosuch", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var said bytes.Buffer
			code, err := vmrun(t.Context(), tt.args, &said, &said)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(said.String(), tt.said) {
				t.Errorf("%q is not in %s", tt.said, said.String())
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || err.Error() != tt.err) {
				t.Errorf("error is %v, want %q", err, tt.err)
			}
		})
	}
}
