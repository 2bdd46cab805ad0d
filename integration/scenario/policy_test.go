// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
)

// TestPolicy is [[allow]], [[deny]] and require_address_match, with mounts: who
// is refused hears why as far as an alert can say it, and the server's log names
// the rule.
func TestPolicy(t *testing.T) {
	guest.RequireVM(t)
	w := newWorld(t)
	for _, s := range []struct {
		name string
		run  func(*world, *testing.T)
	}{
		{"by name", (*world).testPolicyName},
		{"by source", (*world).testPolicySource},
		{"reload", (*world).testPolicyReload},
		{"address match", (*world).testAddressMatch},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(w, t) })
	}
	w.checkDecryption(t)
}

// mountable mounts and unmounts once more.
func (w *world) mountable(t *testing.T, n int, export, sec string) {
	t.Helper()
	dir := fmt.Sprintf("%s-%d", mountPoint(t), n)
	guest.Mount(t, w.client, "server.test:"+export, dir, "vers=4.2,xprtsec="+sec)
	use(t, dir, uint64(n))
	guest.Unmount(t, w.client, dir)
}

// refused mounts in vain, and at once.
func (w *world) refused(t *testing.T, export, sec string) {
	t.Helper()
	err := guest.MountErr(t, w.client, "server.test:"+export, mountPoint(t), "vers=4.2,xprtsec="+sec, 60*time.Second)
	if errors.Is(err, guest.ErrHung) || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("mount says: %v", err)
	}
}

func allowed(name, field, value string) string { return block("allow", name, field, value) }
func denied(name, field, value string) string  { return block("deny", name, field, value) }

func block(action, name, field, value string) string {
	return fmt.Sprintf("[[%s]]\nname = %q\n%s = [%q]\n", action, name, field, value)
}

func (w *world) testPolicyName(t *testing.T) {
	client := run(t, w.client, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.serverConfig()+allowed("ours", "dns", "client.test"))
	w.mountable(t, 1, exportMTLS, "mtls")
	server.stop(t)

	server = run(t, w.server, "rpctlssd", w.serverConfig()+denied("lent to somebody", "dns", "client.test")+allowed("all", "dns", "*"))
	w.refused(t, exportMTLS, "mtls")
	client.said(t, failure("peer_alert", "EACCES")+`.*error=.*peer sent alert access_denied`)
	server.said(t, failure("policy", "EACCES")+`.*error=.*refused by deny rule 'lent to somebody' \(rpctlssd.toml:\d+\)`)
}

// A network that the client is in, and one that it is not; where it has no
// certificate, too.
func (w *world) testPolicySource(t *testing.T) {
	run(t, w.client, "rpctlscd", w.clientConfig())
	here := []string{w.client.IPv4().String() + "/32", w.client.IPv6().String() + "/128"}
	there := []string{w.rogue.IPv4().String() + "/32", w.rogue.IPv6().String() + "/128"}
	sources := func(action, name string, networks []string) string {
		return fmt.Sprintf("[[%s]]\nname = %q\nsource = [%q, %q]\n", action, name, networks[0], networks[1])
	}
	server := run(t, w.server, "rpctlssd", w.serverConfig()+sources("allow", "here", here))
	w.mountable(t, 1, exportBoth, "mtls")
	w.mountable(t, 2, exportBoth, "tls")
	server.stop(t)

	server = run(t, w.server, "rpctlssd", w.serverConfig()+sources("allow", "there", there))
	w.refused(t, exportBoth, "mtls")
	server.said(t, failure("policy", "EACCES")+`.*no allow rule matches`)
	server.stop(t)

	server = run(t, w.server, "rpctlssd", w.serverConfig()+sources("deny", "not from here", here))
	if err := guest.MountErr(t, w.client, "server.test:"+exportBoth, mountPoint(t), "vers=4.2,xprtsec=tls", 60*time.Second); err != nil {
		t.Logf("without a certificate: %v", err)
	}
	server.said(t, failure("policy", "EACCES")+`.*'not from here'`)
}

// A policy that changes decides from the next handshake on; one that is bad
// changes nothing.
func (w *world) testPolicyReload(t *testing.T) {
	run(t, w.client, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.serverConfig())
	original, err := os.ReadFile(server.config)
	if err != nil {
		t.Fatal(err)
	}
	generation := 1
	load := func(policy string) {
		t.Helper()
		if err := os.WriteFile(server.config, append([]byte(string(original)), policy...), 0o644); err != nil {
			t.Fatal(err)
		}
		server.Signal(t, syscall.SIGHUP)
		generation++
		server.said(t, fmt.Sprintf(`reloaded generation=%d`, generation))
	}
	w.mountable(t, 1, exportMTLS, "mtls")
	load(denied("from now on", "subject", "CN=client"))
	w.refused(t, exportMTLS, "mtls")
	server.said(t, failure("policy", "EACCES")+`.*'from now on'`)

	if err := os.WriteFile(server.config, append([]byte(string(original)), "[[allow]]\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	server.Signal(t, syscall.SIGHUP)
	server.said(t, `error: reload refused; .*it says nothing about whom it is for`)
	w.refused(t, exportMTLS, "mtls")

	load(allowed("again", "eku", "clientAuth"))
	w.mountable(t, 2, exportMTLS, "mtls")
}

// Where the client's name is is not known when it comes. It is sent away, tries
// again by itself and is let in; who is somewhere else is not.
func (w *world) testAddressMatch(t *testing.T) {
	w.issue(t, "numbered", certstest.Options{CommonName: "numbered", IPs: []string{w.client.IPv4().String(), w.client.IPv6().String()}})
	w.issue(t, "stolen", certstest.Options{CommonName: "stolen", DNS: []string{w.rogue.FQDN()}})
	const match = "require_address_match = true\n"

	client := run(t, w.client, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.serverConfig()+match)
	w.mountable(t, 1, exportMTLS, "mtls")
	server.said(t, failure("address_unknown", "ETIMEDOUT")+`.*client.test has not been looked up yet`)
	// Whether the client's daemon still sees that it is sent away, or its kernel
	// does, depends on who is quicker. It is no verdict in either case.
	if n := client.count("access_denied"); n != 0 {
		t.Errorf("%d alerts", n)
	}
	before := server.count("address_unknown")
	w.mountable(t, 2, exportMTLS, "mtls")
	if n := server.count("address_unknown"); n != before {
		t.Error("what is known was not known")
	}
	server.stop(t)

	// Expected by a rule, and known before it comes.
	server = run(t, w.server, "rpctlssd", w.serverConfig()+match+allowed("ours", "dns", "client.test"))
	server.said(t, `looked up name=client.test`)
	w.mountable(t, 3, exportMTLS, "mtls")
	if n := server.count("address_unknown"); n != 0 {
		t.Error("what was expected was not known")
	}
	server.stop(t)
	client.stop(t)

	server = run(t, w.server, "rpctlssd", w.serverConfig()+match)
	client = run(t, w.client, "rpctlscd", w.trust()+w.identity("numbered"))
	w.mountable(t, 4, exportMTLS, "mtls")
	if n := server.count("address_unknown"); n != 0 {
		t.Error("an address had to be looked up")
	}
	client.stop(t)

	client = run(t, w.client, "rpctlscd", w.trust()+w.identity("stolen"))
	w.refused(t, exportMTLS, "mtls")
	server.said(t, failure("address_mismatch", "EACCES")+`.*is no address of the certificate's: rogue.test has `)
	client.said(t, failure("peer_alert", "EACCES")+`.*access_denied`)
}
