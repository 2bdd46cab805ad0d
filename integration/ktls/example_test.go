// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rpctls/integration/guest"
)

// What examples/https says of the path a connection takes.
const (
	byKernel  = "send: kernel; receive: kernel"
	byPoller  = "; by: network poller"
	byURing   = "; by: io_uring"
	userSpace = "send: user space ("
)

// exampleServer starts the example's server, and returns it with its address and
// what a client must trust.
func exampleServer(t *testing.T, args ...string) (server *guest.Proc, url, ca string) {
	t.Helper()
	ca = filepath.Join(t.TempDir(), "ca.pem")
	server = guest.Start(t, nil, "httpsserver", append([]string{"httpsserver", "-listen", "127.0.0.1:0", "-write-cert", ca}, args...))
	line := server.WaitLine(t, regexp.MustCompile(`listening on `), guest.CommandLimit)
	return server, strings.TrimSuffix(strings.Fields(line)[2], "/"), ca
}

// exampleClient runs the example's client, and returns what it received, what it
// said and its exit status.
func exampleClient(t *testing.T, args ...string) (body []byte, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guest.CommandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "httpsclient", args...)
	var text strings.Builder
	cmd.Stderr = &text
	body, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		code, err = exit.ExitCode(), nil
	}
	if err != nil {
		t.Fatalf("httpsclient %q: %v\n%s", args, err, text.String())
	}
	return body, text.String(), code
}

// TestExample has the examples' client make every request that their server
// knows, by net/http and by io_uring.
func TestExample(t *testing.T) {
	guest.RequireVM(t)
	guest.LoadModule(t, "tls")
	server, url, ca := exampleServer(t)
	for _, way := range []struct {
		name, want string
		flags      []string
	}{
		{"net", byKernel + byPoller, nil},
		{"io_uring", byKernel + byURing, []string{"-io-uring"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			everyMethod(t, url+"/"+way.name, way.want, append(way.flags, "-ca", ca, "-require-offload"))
		})
	}
	if !strings.Contains(server.Output(), byKernel) || strings.Contains(server.Output(), userSpace) {
		t.Errorf("the server says:\n%s", server.Output())
	}
}

// TestExampleFallsBack has either side, or io_uring, be missing.
func TestExampleFallsBack(t *testing.T) {
	guest.RequireVM(t)
	guest.LoadModule(t, "tls")
	server, url, ca := exampleServer(t, "-no-offload")
	t.Run("client", func(t *testing.T) {
		everyMethod(t, url+"/client", userSpace, []string{"-ca", ca, "-no-offload"})
	})
	t.Run("client with io_uring", func(t *testing.T) {
		everyMethod(t, url+"/uring", byPoller+", connected by io_uring", []string{"-ca", ca, "-no-offload", "-io-uring"})
	})
	t.Run("server", func(t *testing.T) {
		everyMethod(t, url+"/server", byKernel+byURing, []string{"-ca", ca, "-io-uring"})
	})
	if !strings.Contains(server.Output(), userSpace) || strings.Contains(server.Output(), byKernel) {
		t.Errorf("the server says:\n%s", server.Output())
	}
	t.Run("io_uring", func(t *testing.T) {
		const sysctl = "/proc/sys/kernel/io_uring_disabled" // since Linux 6.6
		before, err := os.ReadFile(sysctl)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sysctl, []byte("2"), 0); err != nil {
			t.Fatal(err)
		}
		defer os.WriteFile(sysctl, before, 0)
		everyMethod(t, url+"/disabled", byKernel+byPoller+" (io_uring is not available: sysctl kernel.io_uring_disabled is 2)", []string{"-ca", ca, "-io-uring"})
	})
}

// TestExampleFails looks at what the client says when it cannot.
func TestExampleFails(t *testing.T) {
	guest.RequireVM(t)
	_, url, ca := exampleServer(t)
	_, _, other := exampleServer(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
		said string
	}{
		{"help", []string{"--help"}, 0, "usage: httpsclient"},
		{"no method", []string{url}, 2, "want a method and a URL"},
		{"no such flag", []string{"-nosuch", "GET", url}, 2, "nosuch"},
		{"another certificate", []string{"-ca", other, "GET", url}, 1, "unknown authority"},
		{"nobody listens", []string{"-ca", ca, "-io-uring", "GET", "https://127.0.0.1:1/"}, 1, "connection refused"},
		{"not there", []string{"-ca", ca, "GET", url + "/nothing"}, 3, "404 Not Found"},
		{"not there, by io_uring", []string{"-ca", ca, "-io-uring", "GET", url + "/nothing"}, 3, "404 Not Found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, said, code := exampleClient(t, tt.args...); code != tt.code || !strings.Contains(said, tt.said) {
				t.Errorf("exit status %d, want %d, and %q in:\n%s", code, tt.code, tt.said, said)
			}
		})
	}
}

// everyMethod makes every request below url with bodies of a mebibyte, and
// compares what was sent with what comes back.
func everyMethod(t *testing.T, url, path string, flags []string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	request := func(status int, method, url string, more ...string) (body []byte, said string) {
		t.Helper()
		body, said, code := exampleClient(t, append(append(flags[:len(flags):len(flags)], more...), method, url)...)
		want := 0
		if status >= 400 {
			want = 3
		}
		if code != want || !strings.Contains(said, fmt.Sprintf("\n%d ", status)) {
			t.Fatalf("%s: exit status %d, want an answer of %d:\n%s", method, code, status, said)
		}
		if first, _, _ := strings.Cut(said, "\n"); !strings.Contains(first, path) {
			t.Errorf("%s: %q, want %q", method, first, path)
		}
		if strings.HasSuffix(path, byURing) && !regexp.MustCompile(`io_uring: \d+ operations, [1-9]\d* bytes sent, [1-9]`).MatchString(said) {
			t.Errorf("%s: nothing went by io_uring:\n%s", method, said)
		}
		return body, said
	}
	// same reads a resource and compares its hash with that of what was sent.
	same := func(url string, want []byte) {
		t.Helper()
		got, said := request(200, "GET", url)
		sum := sha256.Sum256(want)
		if sha256.Sum256(got) != sum || !strings.Contains(said, hex.EncodeToString(sum[:])) {
			t.Errorf("%d bytes came back of %d, or others:\n%s", len(got), len(want), said)
		}
	}
	body := make([]byte, 1<<20)
	if _, err := rand.Read(body); err != nil {
		t.Fatal(err)
	}
	put := file("put", body)
	request(201, "PUT", url+"/put", "-data", "@"+put)
	same(url+"/put", body)
	request(204, "PUT", url+"/put", "-data", "@"+put)

	text, err := json.Marshal(map[string]string{"a": hex.EncodeToString(body[:1<<19])})
	if err != nil {
		t.Fatal(err)
	}
	_, said := request(201, "POST", url+"/list", "-data", "@"+file("post", text), "-type", "application/json")
	location := regexp.MustCompile(`(?m)^location: (/\S+)$`).FindStringSubmatch(said)
	if location == nil {
		t.Fatalf("no location:\n%s", said)
	}
	made := url[:strings.Index(url[len("https://"):], "/")+len("https://")] + location[1]
	same(made, text)

	changed, err := json.Marshal(map[string]string{"b": hex.EncodeToString(body[1<<19:])})
	if err != nil {
		t.Fatal(err)
	}
	request(204, "PATCH", made, "-data", "@"+file("patch", changed), "-type", "application/merge-patch+json")
	// Both in one object, in the order of their names.
	same(made, append(append(text[:len(text)-1:len(text)-1], ','), changed[1:]...))

	request(204, "DELETE", made)
	request(404, "GET", made)
}
