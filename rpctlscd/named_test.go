// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/clientask"
	"rpctls/internal/config"
	"rpctls/internal/control"
	"rpctls/internal/control/controltest"
	"rpctls/internal/keyring"
	"rpctls/internal/reason"
	"rpctls/upcall"
)

// household is a configuration with identities that have names.
type household struct {
	dir    string
	config Config
	ca     *certstest.CA
}

func newHousehold(t *testing.T) *household {
	t.Helper()
	h := &household{dir: t.TempDir(), ca: certstest.MustCA(t, certstest.CAOptions{CommonName: "CA"})}
	if err := os.WriteFile(h.path("ca.pem"), h.ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		h.issue(t, filepath.Join("identity", name, "current"), name)
	}
	h.issue(t, "elsewhere", "carol")
	// What is not for us, and what is of no use.
	for _, dir := range []string{"identity/.hidden", "identity/NOT-A-NAME", "identity/half/current"} {
		if err := os.MkdirAll(h.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(h.path("identity/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	h.config, err = load(t, fmt.Sprintf("trust = %q\nidentity_directory = %q\n[[identity]]\nname = \"carol\"\ncertificate = %q\nprivate_key = %q\n",
		h.path("ca.pem"), h.path("identity"), h.path("elsewhere/cert.pem"), h.path("elsewhere/key.pem")))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *household) path(name string) string { return filepath.Join(h.dir, name) }

func (h *household) issue(t *testing.T, dir, commonName string) {
	t.Helper()
	if err := os.MkdirAll(h.path(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	h.ca.MustIssue(t, certstest.Options{CommonName: commonName, NotAfter: time.Now().Add(90 * 24 * time.Hour)}).MustWriteFiles(t, h.path(dir))
}

func TestNamed(t *testing.T) {
	h := newHousehold(t)
	var files certs.Files
	l, err := Build(h.config, &files)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob", "carol"} {
		if id, err := l.byName(name); err != nil || id.Subject() != "CN="+name {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
	for name, want := range map[string]string{"half": "current/cert.pem", "nobody": `there is none called "nobody"`, "../alice": "none called", "": "none called"} {
		if _, err := l.byName(name); !errors.Is(err, reason.ErrNamedIdentity) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	if len(l.named) != 4 {
		t.Errorf("%d identities: %v", len(l.named), l.named)
	}
	// The bad one is warned about and does not stop anything.
	if w := strings.Join(l.Warnings(time.Now()), "\n"); !strings.Contains(w, "identity half: ") || strings.Contains(w, "alice") {
		t.Errorf("warnings: %s", w)
	}
	// What comes later is noticed.
	if files.Changed() {
		t.Error("changed before anything did")
	}
	h.issue(t, "identity/half/current", "half")
	if !files.Changed() {
		t.Error("an identity that became complete was not noticed")
	}
	if l, err = Build(h.config, &files); err != nil {
		t.Fatal(err)
	}
	if _, err := l.byName("half"); err != nil {
		t.Error(err)
	}
	files = certs.Files{}
	Build(h.config, &files)
	h.issue(t, "identity/new/current", "new")
	if !files.Changed() {
		t.Error("a new identity was not noticed")
	}
}

// Without the directory there are none, and nobody minds until it appears.
func TestNoIdentityDirectory(t *testing.T) {
	h := newHousehold(t)
	h.config.IdentityDirectory = "/nowhere/at/all"
	var files certs.Files
	l, err := Build(h.config, &files)
	if err != nil || len(l.Warnings(time.Now())) != 0 {
		t.Fatalf("%v, %q", err, l.Warnings(time.Now()))
	}
	// What is there and cannot be listed is another matter.
	h.config.IdentityDirectory = "/dev/null"
	if l, err = Build(h.config, &files); err != nil || len(l.Warnings(time.Now())) != 1 {
		t.Errorf("%v, %q", err, l.Warnings(time.Now()))
	}
}

// A file that is bad for a moment takes no certificate from a mount that lives; one
// that was taken away does.
func TestNamedStay(t *testing.T) {
	h := newHousehold(t)
	build, live := rebuild(), new(Loaded)
	reload := func() {
		t.Helper()
		var err error
		if live, err = build(h.config, new(certs.Files)); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(name, subject, warning string) {
		t.Helper()
		if id, err := live.byName(name); (err == nil) != (subject != "") || err == nil && id.Subject() != subject {
			t.Errorf("%s: %v, %v, want %q", name, id, err, subject)
		}
		if w := strings.Join(live.Warnings(time.Now()), "\n"); !strings.Contains(w, warning) {
			t.Errorf("%s: warnings %q, want %q", name, w, warning)
		}
	}
	spoil := func(name string) (mend func()) {
		t.Helper()
		good, err := os.ReadFile(h.path(name))
		if err := errors.Join(err, os.WriteFile(h.path(name), []byte("nonsense"), 0o600)); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(h.path(name), good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	reload()
	wants("alice", "CN=alice", "")
	const stays = "what was loaded before stays in use"
	for _, name := range []string{"identity/alice/current/cert.pem", "identity/alice/current/key.pem"} {
		mend := spoil(name)
		for range 2 { // what was kept is kept
			reload()
			wants("alice", "CN=alice", "identity alice: load")
			wants("alice", "CN=alice", stays)
		}
		mend()
		reload()
		if w := strings.Join(live.Warnings(time.Now()), "\n"); strings.Contains(w, "alice") {
			t.Errorf("mended: %q", w)
		}
	}
	mend := spoil("elsewhere/key.pem")
	reload()
	wants("carol", "CN=carol", stays)
	// Other files by the same name are another identity.
	h.config.Identities[0].Certificate = config.Path(h.path("nowhere.pem"))
	reload()
	wants("carol", "", "identity carol: load")
	mend()
	// Half of it is no intention.
	if err := os.Remove(h.path("identity/bob/current/cert.pem")); err != nil {
		t.Fatal(err)
	}
	reload()
	wants("bob", "CN=bob", stays)
	// The list of them is bad for a moment.
	aside := h.path("aside")
	if err := errors.Join(os.Rename(h.path("identity"), aside), os.WriteFile(h.path("identity"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	reload()
	wants("bob", "CN=bob", "loaded before")
	wants("alice", "CN=alice", "loaded before")
	if err := os.Rename(aside, h.path("identity")); err == nil {
		t.Fatal("a file is in its way")
	}
	if err := errors.Join(os.Remove(h.path("identity")), os.Rename(aside, h.path("identity"))); err != nil {
		t.Fatal(err)
	}
	reload()
	// Both files gone, or the directory: that is meant.
	if err := os.Remove(h.path("identity/bob/current/key.pem")); err != nil {
		t.Fatal(err)
	}
	reload()
	wants("bob", "", "identity bob: load certificate")
	if err := os.RemoveAll(h.path("identity/alice")); err != nil {
		t.Fatal(err)
	}
	reload()
	wants("alice", "", "")
}

func TestByKeys(t *testing.T) {
	h := newHousehold(t)
	l, err := Build(h.config, new(certs.Files))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) []byte {
		b, err := os.ReadFile(h.path(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	keys := map[int32][]byte{
		1: keyring.Payload("alice"), 2: keyring.Payload("nobody"), 3: keyring.Payload("bob"),
		10: file("elsewhere/cert.pem"), 11: file("elsewhere/key.pem"), 12: file("identity/bob/current/key.pem"),
		20: []byte("nonsense"), 21: {0x30, 0x82}, 22: {},
	}
	var given [][]byte
	read := func(serial int32) ([]byte, error) {
		b, ok := keys[serial]
		if !ok {
			return nil, keyring.ErrDenied
		}
		b = bytes.Clone(b)
		given = append(given, b)
		return b, nil
	}
	for _, tt := range []struct {
		cert, key int32
		want      string
	}{
		{1, 1, "CN=alice"},
		{10, 11, "CN=carol"},
		{2, 2, "error: none called"},
		{1, 3, "error: privkey_serial is another key"},
		{1, 0, "error: it takes one cert_serial and one privkey_serial"},
		{0, 1, "error: it takes one"},
		{10, 12, "error: key 10 with key 12: private key does not belong"},
		{10, 1, "error: key 1: "},
		{10, 99, "error: privkey_serial: not permitted"},
		{99, 10, "error: cert_serial: not permitted"},
		{20, 11, "error: key 20: "}, {21, 11, "error: key 21: "}, {22, 11, "error: key 22: "},
		{10, 20, "error: key 20: "}, {10, 21, "error: key 21: "}, {10, 22, "error: key 22: "},
	} {
		id, err := l.byKeys([]upcall.KeyPair{{Certificate: tt.cert, PrivateKey: tt.key}}, read)
		if want, isError := strings.CutPrefix(tt.want, "error: "); isError {
			if !errors.Is(err, reason.ErrNamedIdentity) || !strings.Contains(err.Error(), want) || id != nil {
				t.Errorf("%d, %d: %v, %v, want %q", tt.cert, tt.key, id, err, want)
			}
		} else if err != nil || id.Subject() != tt.want {
			t.Errorf("%d, %d: %v, %v", tt.cert, tt.key, id, err)
		}
	}
	for _, b := range given {
		if len(bytes.Trim(b, "\x00")) > 0 {
			t.Errorf("not wiped: %.40q", b)
		}
	}
	if _, err := l.byKeys(make([]upcall.KeyPair, 2), read); err == nil {
		t.Error("two pairs")
	}
}

func TestAskIdentity(t *testing.T) {
	h := newHousehold(t)
	live, err := certs.NewLive(func(f *certs.Files) (*Loaded, error) { return Build(h.config, f) })
	if err != nil {
		t.Fatal(err)
	}
	r := &Role{live: live}
	got, err := r.askIdentity(context.Background(), nil, clientask.Identity{Server: serverOf("a.test", "10.0.0.1")})
	if err != nil || got.Default {
		t.Errorf("%+v, %v", got, err)
	}
	var text []string
	for _, n := range got.Named {
		text = append(text, fmt.Sprint(n.Name, " ", n.Subject, " ", n.Error != ""))
	}
	if want := "alice CN=alice false,bob CN=bob false,carol CN=carol false,half  true"; strings.Join(text, ",") != want {
		t.Errorf("%q, want %q", text, want)
	}
	if _, err := r.askIdentity(context.Background(), nil, clientask.Identity{}); err == nil {
		t.Error("no server, and no error")
	}
}

// A mount that is refused because there are too many leaves nothing behind: what it
// asked for is not in force.
func TestChooseTooMany(t *testing.T) {
	h := newHousehold(t)
	live, err := certs.NewLive(func(f *certs.Files) (*Loaded, error) { return Build(h.config, f) })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	chosen, err := loadChoices(dir, mountTable{}.mounted)
	if err != nil {
		t.Fatal(err)
	}
	r := &Role{live: live, chosen: chosen, log: slog.New(slog.DiscardHandler)}
	s, err := control.Listen(dir, clientask.Daemon, control.MaxConns, r.Control(), func(err error) { t.Log(err) })
	if err != nil {
		t.Fatal(err)
	}
	controltest.Serve(t, s)
	choose := func(server, identity string) error {
		c, err := control.Dial(t.Context(), dir, clientask.Daemon)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.Call(clientask.OpChoose, clientask.Choose{Server: serverOf(server), Identity: identity}, new(clientask.Chosen))
	}
	n := 0
	for err == nil && n < control.MaxConns {
		err = choose(fmt.Sprintf("s%d.test", n), "")
		n++
	}
	if err == nil || err.Error() != control.ErrTooMany.Text || n < 200 {
		t.Fatalf("after %d: %v", n, err)
	}
	if err := choose("a.test", "alice"); err == nil || err.Error() != control.ErrTooMany.Text {
		t.Errorf("one too many: %v", err)
	}
	if identity, ok := chosen.of("a.test", netip.Addr{}); ok {
		t.Errorf("%q is in force", identity)
	}
}
