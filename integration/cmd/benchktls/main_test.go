// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"rpctls/integration/bench"
)

// The receiver is this binary again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-receive" {
		main()
		return
	}
	os.Exit(m.Run())
}

// In user space it runs anywhere.
func TestUserSpace(t *testing.T) {
	for _, source := range []string{memory, file} {
		var out bytes.Buffer
		o := &options{system: bench.UserTLS, source: source, mib: 1}
		if err := o.sender(t.Context(), &out); err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		var x bench.Transfer
		if err := json.Unmarshal(out.Bytes(), &x); err != nil {
			t.Fatal(err)
		}
		if x.MiB != 1 || x.Elapsed <= 0 || x.ProcessCPU <= 0 || x.GuestCPU < 0 || !strings.HasPrefix(x.Cipher, "TLS_") {
			t.Errorf("%s: %v", source, &x)
		}
	}
}

func TestParse(t *testing.T) {
	for _, args := range [][]string{
		{"-system", "openssl"}, {"-source", "disk"}, {"-system", "sendfile"}, {"-mib", "0"}, {"-mib", "5000"}, {"more"}, {"-nosuch"},
	} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	if _, err := parse([]string{"-help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: %v", err)
	}
	o, err := parse([]string{"-system", "sendfile", "-source", "file", "-mib", "3"}, io.Discard)
	if err != nil || o.system != bench.Sendfile || o.source != file || o.mib != 3 {
		t.Errorf("%+v, %v", o, err)
	}
}
