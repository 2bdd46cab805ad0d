// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
)

// fails runs a program that must exit with code, and returns what it said.
func fails(t *testing.T, h *guest.Host, code int, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), guest.CommandLimit)
	defer cancel()
	cmd := h.Command(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != code {
		t.Errorf("%s: %v, want exit code %d:\n%s", strings.Join(argv, " "), err, code, out.String())
	}
	return out.String()
}

// A daemon that cannot serve does not start, and says why in one line.
func (w *world) testStartUp(t *testing.T) {
	key := func(mode os.FileMode) string {
		name := w.path(fmt.Sprintf("key-%o.pem", mode))
		b, err := os.ReadFile(w.path("server/key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	other := w.ca.MustIssue(t, serverOptions(w.server))
	if err := os.WriteFile(w.path("other.key"), other.MustKeyPEM(t, certstest.PKCS8), 0o600); err != nil {
		t.Fatal(err)
	}
	w.write(t, "empty.pem", nil)
	cert := fmt.Sprintf("certificate = %q\n", w.path("server/cert.pem"))
	for _, tt := range []struct{ name, text, want string }{
		{"file missing", cert + "private_key = \"/nowhere/key.pem\"\n", `/nowhere/key\.pem.*no such file`},
		{"file empty", w.identity("server") + fmt.Sprintf("trust = %q\n", w.path("empty.pem")), `empty\.pem`},
		{"key readable by everybody", cert + fmt.Sprintf("private_key = %q\n", key(0o644)), `key-644\.pem.*(0644|chmod)`},
		{"key of another certificate", cert + fmt.Sprintf("private_key = %q\n", w.path("other.key")), `other\.key: private key does not belong to the certificate`},
		{"unknown key", w.identity("server") + "truts = \"/a\"\n", `rpctlssd\.toml:\d+:1: unknown key "truts"`},
		{"not a certificate", "certificate = \"/etc/passwd\"\nprivate_key = \"/etc/passwd\"\n", `/etc/passwd`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := configure(t, w.server, "rpctlssd", tt.text)
			for _, args := range [][]string{{"-config", config}, {"-check", "-config", config}} {
				out := fails(t, w.server, 1, append([]string{binary("rpctlssd")}, args...)...)
				if !regexp.MustCompile(`(?m)^rpctlssd: .*` + tt.want).MatchString(out) {
					t.Errorf("%v said %q, want %s", args, out, tt.want)
				}
				if strings.Contains(out, "PRIVATE KEY") {
					t.Error("a key was printed")
				}
			}
		})
	}
	good := configure(t, w.server, "rpctlssd", w.serverConfig())
	t.Run("no CAP_NET_ADMIN", func(t *testing.T) {
		guest.LoadModule(t, "tls")
		out := fails(t, w.server, 1, "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", binary("rpctlssd"), "-config", good)
		if !strings.Contains(out, "CAP_NET_ADMIN") {
			t.Errorf("it said %q", out)
		}
	})
	t.Run("too few descriptors", func(t *testing.T) {
		out := fails(t, w.server, 1, "prlimit", "--nofile=40:40", binary("rpctlssd"), "-config", good)
		if !strings.Contains(out, "LimitNOFILE") {
			t.Errorf("it said %q", out)
		}
	})
	t.Run("twice", func(t *testing.T) {
		run(t, w.server, "rpctlssd", w.serverConfig())
		out := fails(t, w.server, 1, binary("rpctlssd"), "-config", good)
		if !strings.Contains(out, "another rpctlssd is running") {
			t.Errorf("it said %q", out)
		}
	})
	t.Run("no tls module", func(t *testing.T) {
		// Nothing has used it for good: it can go, and must not come back.
		guest.Poll(t, guest.CommandLimit, "unloading tls", func() error {
			out, err := exec.Command("modprobe", "-r", "tls").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		helper, err := os.ReadFile("/proc/sys/kernel/modprobe")
		if err != nil {
			t.Fatal(err)
		}
		setHelper := func(s string) {
			if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(s), 0); err != nil {
				t.Fatal(err)
			}
		}
		setHelper("/bin/false")
		defer setHelper(strings.TrimSpace(string(helper)))
		out := fails(t, w.server, 1, binary("rpctlssd"), "-config", good)
		if !strings.Contains(out, "modprobe tls") {
			t.Errorf("it said %q", out)
		}
	})
	t.Run("usage", func(t *testing.T) {
		fails(t, w.server, 2, binary("rpctlssd"), "-verbose")
		fails(t, w.server, 2, binary("rpctlssd"), "extra")
		for _, name := range []string{"rpctlscd", "rpctlssd"} {
			out := w.server.Run(t, binary(name), "-help")
			if !strings.Contains(out, "usage: "+name) {
				t.Errorf("%s -help: %q", name, out)
			}
			out = w.server.Run(t, binary(name), "-version")
			if !strings.HasPrefix(out, name+" ") {
				t.Errorf("%s -version: %q", name, out)
			}
		}
		w.server.Run(t, binary("rpctlssd"), "-check", "-config", good)
	})
	// Secrets stay out of core dumps.
	t.Run("no core dumps", func(t *testing.T) {
		d := run(t, w.server, "rpctlssd", w.serverConfig())
		limits, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(d.PID()), "limits"))
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
			t.Errorf("limits:\n%s", limits)
		}
	})
}
