// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/certs/certstest"
	"rpctls/internal/agent"
	"rpctls/internal/pin"
	"rpctls/rpctlscd"
	"rpctls/rpctlssd"
	"rpctls/upcall"
	"rpctls/upcall/upcalltest"
)

// Both daemons, where the server's policy, or the client's pins, decide. What
// the one decides, the other is told by an alert.
func TestPolicy(t *testing.T) {
	fakeInstall(t)
	t.Cleanup(agent.WaitForAlerts())
	s := newSite(t)
	serverID := s.issue(t, "server", serverOptions()) + s.trust()
	clientID := s.issue(t, "client", certstest.Options{CommonName: "the client", DNS: []string{"client.test"}})
	addressed := s.issue(t, "addressed", certstest.Options{IPs: []string{"192.0.2.1", "127.0.0.1"}})
	elsewhere := s.issue(t, "elsewhere", certstest.Options{IPs: []string{"192.0.2.1"}})
	pair := s.ca.MustIssue(t, serverOptions())
	if err := os.Mkdir(s.path("pinned"), 0o755); err != nil {
		t.Fatal(err)
	}
	pair.MustWriteFiles(t, s.path("pinned"))
	pinnedID := "certificate = \"" + s.path("pinned/cert.pem") + "\"\nprivate_key = \"" + s.path("pinned/key.pem") + "\"\n"
	const denied = `peer sent alert access_denied`
	tests := []struct {
		name                       string
		client                     string // beside trust
		mode                       upcall.AuthMode
		server                     string
		clientStatus, serverStatus unix.Errno
		clientReason, serverReason string
	}{
		{
			name: "allowed by name", client: clientID, mode: upcall.X509, server: serverID + "[[allow]]\ndns = [\"client.test\"]\n",
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "denied by a rule with a name", client: clientID, mode: upcall.X509,
			server:       serverID + "[[deny]]\nname = \"not this one\"\ndns = [\"client.test\"]\n[[allow]]\ndns = [\"*.test\"]\n",
			clientStatus: unix.EACCES, serverStatus: unix.EACCES,
			clientReason: "reason=peer_alert .*" + denied, serverReason: `reason=policy .*refused by deny rule 'not this one' \(config.toml:4\)`,
		},
		{
			name: "denied because no rule allows it", client: clientID, mode: upcall.X509, server: serverID + "[[allow]]\ndns = [\"other.test\"]\n",
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: denied, serverReason: "reason=policy .*no allow rule matches",
		},
		{
			name: "allowed by source", client: clientID, mode: upcall.X509, server: serverID + "[[allow]]\nsource = [\"127.0.0.0/8\"]\n",
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "denied by source", client: clientID, mode: upcall.X509, server: serverID + "[[deny]]\nsource = [\"127.0.0.1\"]\n",
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: denied, serverReason: "reason=policy",
		},
		{
			// The mount learns of it from the kernel, later: nobody looks for a
			// late alert who has presented nothing.
			name: "denied by source, without a certificate", mode: upcall.Unauthenticated, server: serverID + "[[deny]]\nsource = [\"127.0.0.1\"]\n",
			serverStatus: unix.EACCES, clientReason: "reason=ok", serverReason: "reason=policy",
		},
		{
			name: "allowed by source, without a certificate", mode: upcall.Unauthenticated, server: serverID + "[[allow]]\nsource = [\"127.0.0.1\"]\n",
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "allow rules for certificates, and none is sent", mode: upcall.Unauthenticated, server: serverID + "[[allow]]\ndns = [\"*\"]\n",
			serverStatus: unix.EACCES, clientReason: "reason=ok", serverReason: "reason=policy .*a client without a certificate",
		},
		{
			name: "address in the certificate", client: addressed, mode: upcall.X509, server: serverID + "require_address_match = true\n",
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "another address in the certificate", client: elsewhere, mode: upcall.X509, server: serverID + "require_address_match = true\n",
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: denied, serverReason: `reason=address_mismatch .*127\.0\.0\.1 is no address`,
		},
		{
			name: "a name that is not known yet", client: clientID, mode: upcall.X509, server: serverID + "require_address_match = true\n",
			clientStatus: unix.ETIMEDOUT, serverStatus: unix.ETIMEDOUT, clientReason: "reason=closed .*close_notify", serverReason: "reason=address_unknown .*client.test has not been looked up yet",
		},
		{
			name: "no certificate, no address to match", mode: upcall.Unauthenticated, server: serverID + "require_address_match = true\n",
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "one of several pins", mode: upcall.Unauthenticated, server: pinnedID,
			client:       "[[server]]\nmatch = [\"server.test\"]\npin = [\"sha256:" + strings.Repeat("00", 32) + "\", \"" + pin.Of(pair.Cert).String() + "\"]\n",
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "the pin of the CA is not the server's", mode: upcall.Unauthenticated, server: pinnedID,
			client:       "[[server]]\nmatch = [\"server.test\"]\npin = [\"" + pin.Of(s.ca.Cert).String() + "\"]\n",
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=pin_mismatch .*" + pin.Of(pair.Cert).String(), serverReason: "certificate_unknown",
		},
		{
			name: "a pin does not stand for trust", mode: upcall.Unauthenticated,
			server:       newSite(t).issue(t, "server", serverOptions()),
			client:       "[[server]]\nmatch = [\"server.test\"]\npin = [\"" + pin.Of(pair.Cert).String() + "\"]\n",
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=unknown_ca", serverReason: "unknown_ca",
		},
		{
			name: "pins of another server", mode: upcall.Unauthenticated, server: pinnedID,
			client:       "[[server]]\nmatch = [\"other.test\"]\npin = [\"sha256:" + strings.Repeat("00", 32) + "\"]\n",
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, srv := upcalltest.SocketPair(t)
			ch, sh := start(t, rpctlscd.Program(), s.trust()+tt.client), start(t, rpctlssd.Program(), tt.server)
			sp := sh.kernel.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
			cp := ch.kernel.Submit(upcalltest.Spec{Attributes: clientRequest(tt.mode), Socket: c})
			if a := ch.kernel.Wait(cp, bound); a.Status != tt.clientStatus {
				t.Errorf("client's status %v, want %v", a.Status, tt.clientStatus)
			}
			if a := sh.kernel.Wait(sp, bound); a.Status != tt.serverStatus {
				t.Errorf("server's status %v, want %v", a.Status, tt.serverStatus)
			}
			wantLine(t, "client", ch.log, tt.clientReason)
			wantLine(t, "server", sh.log, tt.serverReason)
		})
	}
}
