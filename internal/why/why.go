// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package why

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"rpctls/internal/reason"
	"rpctls/ktls"
)

// A Cause is why a mount fails.
type Cause struct {
	What    string // one line
	Where   Place  // of Command
	Command string // one command that mends it, or the next step to that; may be ""
}

// A Place is a machine.
type Place string

// The places.
const (
	Here     Place = "" // the client
	OnServer Place = "on the server"
)

// Hint is command and place in one line.
func (c Cause) Hint() string {
	if c.Where == Here || c.Command == "" {
		return c.Command
	}
	return string(c.Where) + ": " + c.Command
}

// byReason are handshakes that failed on this host, or were judged by it.
var byReason = map[reason.Reason]Cause{
	reason.UnknownCA:        {"this host does not trust the CA that issued the server's certificate", Here, "rpctlsctl cert trust CA.pem"},
	reason.Expired:          {"the server's certificate has expired", OnServer, "rpctlsctl cert renew --due"},
	reason.NotYetValid:      {"the server's certificate is not valid yet: this host's clock, or that of its CA, is wrong", Here, "timedatectl"},
	reason.WrongName:        {"the server's certificate is for other names than the mount uses", OnServer, "rpctlsctl cert server NAME..."},
	reason.Revoked:          {"the server's certificate is revoked", OnServer, "rpctlsctl cert server NAME..."},
	reason.NoRevocationInfo: {"there is no fresh CRL of the CA that issued the server's certificate", "on the CA's host", "rpctlsctl cert crl -o crl.pem, and copy that here"},
	reason.KeyUsage:         {"the server's certificate is not one for servers", OnServer, "rpctlsctl cert server NAME..."},
	reason.BadCertificate:   {"the server's certificate is of no use", OnServer, "rpctlsctl cert server NAME..."},
	reason.NotAsked:         {"the server does not ask for a certificate, so that TLS cannot be mutual", OnServer, "set `trust` in /etc/rpctls/rpctlssd.toml, then systemctl reload rpctlssd"},
	reason.PinMismatch:      {"the server's key is none of those that this host expects", Here, "if it was renewed on purpose, set `pin` in /etc/rpctls/rpctlscd.toml"},
	reason.ALPN:             {"the server does not speak RPC over TLS (ALPN \"sunrpc\")", OnServer, "ss -tlnp sport = :2049"},
	reason.ProtocolVersion:  {"the server does not speak TLS 1.3", OnServer, "systemctl enable --now rpctlssd"},
	reason.NotTLS:           {"the server agreed to TLS and answers something else", OnServer, "ss -tlnp sport = :2049"},
	reason.RecordOverflow:   {"the server agreed to TLS and answers something else", OnServer, "ss -tlnp sport = :2049"},
	reason.Protocol:         {"the server breaks the rules of TLS", OnServer, "journalctl -u rpctlssd"},
	reason.Timeout:          {"the server agreed to TLS and fell silent", OnServer, "systemctl restart rpctlssd"},
	reason.Closed:           {"the server agreed to TLS and hung up: no agent answers its kernel", OnServer, "systemctl enable --now rpctlssd"},
	reason.Reset:            {"the server agreed to TLS and reset the connection", OnServer, "journalctl -u rpctlssd"},
	reason.NoIdentity:       {"this host has no certificate to show, and the mount wants TLS to be mutual", Here, "rpctls-client-setup FILE.bundle"},
	reason.NamedIdentity:    {"the identity that the mount names cannot be used", Here, "rpctlscd -check"},
	reason.NoKernelTLS:      {"this host's kernel has no TLS", Here, "modprobe tls"},
	reason.NotInstalled:     {"this host is asked to be a server as well, and has no agent for that", Here, "systemctl enable --now rpctlssd"},
	reason.OutOfResources:   {"this host runs out of descriptors or memory", Here, "systemctl status rpctlscd"},
}

// unsupportedCertificate is what a server says to a certificate with another
// extended key usage (RFC 8446 section 6.2).
const unsupportedCertificate ktls.Alert = 43

// byAlert are handshakes that the server ended, by its word.
var byAlert = map[ktls.Alert]Cause{
	ktls.AlertUnknownCA:             {"the server does not trust the CA that issued this host's certificate", OnServer, "rpctlsctl cert trust CA.pem"},
	ktls.AlertCertificateExpired:    {"this host's certificate has expired or is not valid yet, says the server", Here, "rpctlsctl cert renew --due"},
	ktls.AlertCertificateRevoked:    {"this host's certificate is revoked, says the server", Here, "rpctls-client-setup FILE.bundle"},
	ktls.AlertCertificateRequired:   {"the server demands a certificate, and this host has shown none", Here, "rpctls-client-setup FILE.bundle"},
	ktls.AlertAccessDenied:          {"the server's policy refuses this host's certificate", OnServer, "rpctlsctl policy test CERT --from ADDRESS"},
	unsupportedCertificate:          {"this host's certificate is not one for clients", Here, "rpctls-client-setup FILE.bundle"},
	ktls.AlertBadCertificate:        {"this host's certificate is of no use to the server", OnServer, "journalctl -u rpctlssd"},
	ktls.AlertCertificateUnknown:    {"the server does not accept this host's certificate", OnServer, "journalctl -u rpctlssd"},
	ktls.AlertProtocolVersion:       byReason[reason.ProtocolVersion],
	ktls.AlertNoApplicationProtocol: byReason[reason.ALPN],
}

// Alert is the cause behind an alert of the server.
func Alert(a ktls.Alert) Cause {
	if c, ok := byAlert[a]; ok {
		return c
	}
	return Cause{fmt.Sprintf("the server ended the handshake (alert %v)", a), OnServer, "journalctl -u rpctlssd"}
}

// alertIn finds the alert in the text of a *ktls.AlertError, as logs and the
// history have it.
var alertIn = regexp.MustCompile(`peer sent alert ([a-z_]+)`)

// alertSent is what the text of a *ktls.AlertError says of our own alert.
var alertSent = regexp.MustCompile(` \(alert [a-z_]+ sent\)`)

// Evidence is the text of an error beside its cause: without what an alert of the
// peer's means, which the cause says, and without ours, which is the peer's affair.
func Evidence(text string) string {
	text = alertSent.ReplaceAllString(text, "")
	if m := alertIn.FindStringSubmatch(text); m != nil {
		if a, ok := ktls.AlertNamed(m[1]); ok && a.Words() != "" {
			return strings.Replace(text, m[0]+": "+a.Words(), m[0], 1)
		}
	}
	return text
}

// Handshake is the cause behind a failed handshake of a client: its reason, and
// its error in words.
func Handshake(r reason.Reason, text string) (Cause, bool) {
	if r == reason.PeerAlert {
		m := alertIn.FindStringSubmatch(text)
		if m == nil {
			return Cause{}, false
		}
		a, ok := ktls.AlertNamed(m[1])
		return Alert(a), ok
	}
	if r == reason.Closed && strings.Contains(text, "install kernel tls") {
		// It spoke TLS, so there is an agent.
		return Cause{"the server hung up right after the handshake", OnServer, "journalctl -u rpctlssd"}, true
	}
	c, ok := byReason[r]
	return c, ok
}

// Fault is the cause behind what a client meets before a handshake.
func Fault(f reason.Fault, host string, port uint16) Cause {
	at := fmt.Sprintf("port %d of %s", port, host)
	switch f {
	case reason.FaultName:
		return Cause{fmt.Sprintf("the name %s cannot be resolved", host), Here, "getent hosts " + host}
	case reason.FaultRefused:
		return Cause{fmt.Sprintf("nothing listens on %s", at), OnServer, "systemctl enable --now nfs-server"}
	case reason.FaultUnreachable:
		return Cause{fmt.Sprintf("there is no way to %s", host), Here, "ip route get " + host}
	case reason.FaultTimeout:
		return Cause{fmt.Sprintf("%s does not answer: the host is down, or a firewall drops the packets", at), Here, fmt.Sprintf("ping %s; nc -vz %s %d", host, host, port)}
	case reason.FaultNotRPC:
		return Cause{fmt.Sprintf("what answers on %s is no NFS server", at), OnServer, fmt.Sprintf("ss -tlnp sport = :%d", port)}
	case reason.FaultNoNFS:
		return Cause{fmt.Sprintf("the server on %s does not offer NFSv4", at), OnServer, "cat /proc/fs/nfsd/versions"}
	case reason.FaultNoTLS:
		return NoTLS
	case reason.FaultReset, reason.FaultClosed:
		return Cause{fmt.Sprintf("%s hangs up before anything is said", at), OnServer, "systemctl status nfs-server"}
	}
	return Cause{"this host cannot connect", Here, "ip address"}
}

// Causes that are neither a handshake's nor a fault on the way to one.
var (
	NoTLS = Cause{"the server does not offer TLS", OnServer, "uname -r: a Linux server needs 6.4 or later, and rpctlssd"}

	NotRunning     = Cause{"nobody answers the kernel's request for a TLS handshake: rpctlscd is not running", Here, "systemctl enable --now rpctlscd"}
	OtherNamespace = Cause{"nobody answers the kernel's request for a TLS handshake, though rpctlscd is running: in another network namespace?", Here, "run rpctlscd in the network namespace of the mount"}
	Rival          = Cause{"another program answers the kernel's handshake requests, by its own rules", Here, "systemctl disable --now tlshd"}
	KernelTLS      = byReason[reason.NoKernelTLS]

	// What mount.nfstls can know of an export: all that the kernel says is that
	// access was denied.
	RefusedEncrypted = Cause{"the server refuses this host, though the connection is encrypted", OnServer,
		"does the export include this host? With xprtsec=mtls it wants a certificate: rpctls-client-setup FILE.bundle gives this host one"}
	RefusedMutual = Cause{"the server refuses this host, though both have authenticated each other by TLS", OnServer,
		"does the export include this host, and does it say xprtsec=mtls or xprtsec=tls:mtls?"}
	// What rpctlsctl doctor knows, which has looked at it with and without a
	// certificate.
	ExportWantsCertificate = Cause{"the export does not let in who has no certificate (xprtsec=mtls), and this host has none", Here, "rpctls-client-setup FILE.bundle"}
	ExportRefusesMutual    = Cause{"the export does not let in who shows a certificate (xprtsec=tls alone)", OnServer, "write xprtsec=tls:mtls into /etc/exports, then exportfs -ra"}
	ExportRefusesTLS       = Cause{"the export lets nobody in over TLS, or asks for Kerberos", OnServer, "exportfs -v"}
	ExportWantsPort        = Cause{"the export lets in only who comes from a port below 1024", OnServer, "add `insecure` in /etc/exports, then exportfs -ra"}
)

// CannotStart is the cause if rpctlscd does not run and its -check says why.
func CannotStart(text string) Cause {
	return Cause{"rpctlscd is not running, and cannot: " + text, Here, "mend that, then: systemctl restart rpctlscd"}
}

// NoExport is the cause if a server shows no such directory to this host.
func NoExport(path string) Cause {
	return Cause{"the server exports no " + path + " to this host", OnServer, "exportfs -v"}
}

// Clock is the cause if a clock shows a time before this program was made.
func Clock(now time.Time) Cause {
	return Cause{fmt.Sprintf("this host's clock says %s, which is past", now.UTC().Format(time.RFC3339)), Here, "timedatectl set-ntp true"}
}
