// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package reason

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/internal/alpn"
	"rpctls/internal/forward"
	"rpctls/internal/handover"
	"rpctls/internal/netns"
	"rpctls/internal/policy"
	"rpctls/ktls"
	"rpctls/upcall"
)

// A Reason is the outcome of a handshake.
type Reason string

// The reasons. Those about a certificate are the peer's, as judged here;
// what the peer says of ours is PeerAlert.
const (
	OK Reason = "ok"

	UnknownCA        Reason = "unknown_ca"
	Expired          Reason = "expired"
	NotYetValid      Reason = "not_yet_valid"
	WrongName        Reason = "wrong_name"
	Revoked          Reason = "revoked"
	NoRevocationInfo Reason = "no_revocation_info"
	KeyUsage         Reason = "key_usage"
	NoCertificate    Reason = "no_certificate"
	BadCertificate   Reason = "bad_certificate"
	NotAsked         Reason = "no_certificate_request"
	PinMismatch      Reason = "pin_mismatch"
	Policy           Reason = "policy"
	AddressMismatch  Reason = "address_mismatch"
	AddressUnknown   Reason = "address_unknown"

	PeerAlert       Reason = "peer_alert"
	ALPN            Reason = "alpn"
	ProtocolVersion Reason = "protocol_version"
	NotTLS          Reason = "not_tls"
	RecordOverflow  Reason = "record_overflow"
	Protocol        Reason = "protocol_error"

	NoClientHello Reason = "no_client_hello"
	Timeout       Reason = "timeout"
	Closed        Reason = "closed"
	Reset         Reason = "reset"

	NoIdentity     Reason = "no_identity"
	NamedIdentity  Reason = "named_identity"
	NoKernelTLS    Reason = "no_kernel_tls"
	NotInstalled   Reason = "sibling_not_installed"
	NotAnswering   Reason = "sibling_not_answering"
	Unsupported    Reason = "unsupported"
	OutOfResources Reason = "out_of_resources"
	Internal       Reason = "internal"
)

// All returns every reason.
func All() []Reason {
	return []Reason{
		OK, UnknownCA, Expired, NotYetValid, WrongName, Revoked, NoRevocationInfo, KeyUsage, NoCertificate, BadCertificate, NotAsked, PinMismatch, Policy, AddressMismatch, AddressUnknown, PeerAlert, ALPN, ProtocolVersion, NotTLS, RecordOverflow, Protocol, NoClientHello, Timeout, Closed, Reset, NoIdentity, NamedIdentity, NoKernelTLS, NotInstalled, NotAnswering, Unsupported, OutOfResources, Internal,
	}
}

// ErrNoIdentity: the kernel asks for a certificate of ours and none is
// configured.
var ErrNoIdentity = errors.New("no certificate is configured for this")

// ErrNotAsked: the mount asks for mutual TLS and the server did not ask for our
// certificate, so it cannot know who we are.
var ErrNotAsked = errors.New("server did not ask for a client certificate, but the mount wants mutual TLS")

// ErrNamedIdentity: the mount names the certificate to present, and it cannot be
// presented. What is wrapped beside it says why.
var ErrNamedIdentity = errors.New("the identity that the mount names cannot be used")

// PinError: the server's key is none of those pinned.
type PinError struct{ Seen string }

func (e *PinError) Error() string { return "server's public key is not pinned: it is " + e.Seen }

// TLSAlert is the alert the peer gets.
func (e *PinError) TLSAlert() uint8 { return uint8(ktls.AlertCertificateUnknown) }

// Of returns the reason that err stands for; OK for nil.
func Of(err error) Reason {
	if err == nil {
		return OK
	}
	if ve, ok := errors.AsType[*certs.VerifyError](err); ok {
		return Reason(ve.Reason)
	}
	if _, ok := errors.AsType[*PinError](err); ok {
		return PinMismatch
	}
	if _, ok := errors.AsType[*policy.Refusal](err); ok {
		return Policy
	}
	if m, ok := errors.AsType[*forward.MismatchError](err); ok {
		if m.Unknown() {
			return AddressUnknown
		}
		return AddressMismatch
	}
	if a, ok := errors.AsType[*ktls.AlertError](err); ok {
		return ofAlert(a)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return NotTLS
	}
	for _, c := range []struct {
		is     error
		reason Reason
	}{
		{alpn.ErrNotAgreed, ALPN},
		{ErrNoIdentity, NoIdentity},
		{ErrNotAsked, NotAsked},
		{ErrNamedIdentity, NamedIdentity},
		{ktls.ErrNoFirstRecord, NoClientHello},
		{ktls.ErrNoTurn, OutOfResources},
		{ktls.ErrCipher, NoKernelTLS},
		{ktls.ErrLeftover, Protocol},
		{netns.ErrGone, Unsupported},
		{handover.ErrNotInstalled, NotInstalled},
		{handover.ErrNotAnswering, NotAnswering},
		{os.ErrDeadlineExceeded, Timeout},
		{context.DeadlineExceeded, Timeout},
		{unix.ETIMEDOUT, Timeout},
		{unix.ECONNRESET, Reset},
		{unix.ECONNABORTED, Reset}, // by this host: ss -K
		{io.EOF, Closed},
		{unix.EPIPE, Closed},
		{unix.ENOTCONN, Closed},
		{unix.EMFILE, OutOfResources},
		{unix.ENFILE, OutOfResources},
		{unix.ENOMEM, OutOfResources},
		{unix.ENOBUFS, OutOfResources},
	} {
		if errors.Is(err, c.is) {
			return c.reason
		}
	}
	if _, ok := errors.AsType[*ktls.InstallError](err); ok {
		return NoKernelTLS
	}
	if _, ok := errors.AsType[*upcall.RefusedError](err); ok {
		return Unsupported
	}
	if _, ok := errors.AsType[*ktls.HandshakeError](err); ok {
		// What is left is crypto/tls's own judgement, or the network's:
		// EHOSTUNREACH, ECONNABORTED and the like are not about the peer.
		if _, ok := errors.AsType[unix.Errno](err); ok {
			return Reset
		}
		if errors.Is(err, os.ErrNoDeadline) || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
			return Internal
		}
		return Protocol
	}
	return Internal
}

func ofAlert(a *ktls.AlertError) Reason {
	switch a.Alert {
	case ktls.AlertProtocolVersion:
		// crypto/tls says so to what is not TLS at all, too.
		if _, ok := errors.AsType[tls.RecordHeaderError](a); ok {
			return NotTLS
		}
		return ProtocolVersion
	case ktls.AlertRecordOverflow:
		return RecordOverflow
	case ktls.AlertNoApplicationProtocol:
		return ALPN
	case ktls.AlertCloseNotify, ktls.AlertUserCanceled:
		return Closed
	}
	if a.Remote {
		return PeerAlert
	}
	return Protocol
}

// Definite reports whether trying again cannot help until somebody changes a
// certificate or a configuration: a judgement was made, here or by the peer.
// The other reasons are about the network or about this moment.
func (r Reason) Definite() bool {
	switch r {
	case UnknownCA, Expired, NotYetValid, WrongName, Revoked, NoRevocationInfo, KeyUsage,
		NoCertificate, BadCertificate, NotAsked, PinMismatch, Policy, AddressMismatch, PeerAlert, ALPN, ProtocolVersion, NotTLS,
		RecordOverflow, Protocol, NoIdentity, NamedIdentity, NoKernelTLS, NotInstalled, Unsupported:
		return true
	}
	return false
}

// meanings say in words what each reason stands for. docs/reasons.md is made of
// them, and a test fails for a reason without one.
var meanings = map[Reason]string{
	OK:               "the keys are in the kernel",
	UnknownCA:        "no CA in `trust` has issued the peer's certificate, or the peer does not send the certificates between",
	Expired:          "the peer's certificate, or one of its issuers', has expired",
	NotYetValid:      "the peer's certificate is not valid yet, by this host's clock",
	WrongName:        "the peer's certificate does not hold the name or address that was mounted",
	Revoked:          "the peer's CA has revoked its certificate",
	NoRevocationInfo: "no fresh CRL says whether the peer's certificate has been revoked",
	KeyUsage:         "the peer's certificate is not for this role",
	NoCertificate:    "the peer sent no certificate",
	BadCertificate:   "the peer's certificate cannot be used for another reason",
	NotAsked:         "the mount wants mutual TLS and the server did not ask for a certificate",
	PinMismatch:      "the server's key is none of those in `pin`",
	Policy:           "a rule of the server's refuses the client, or none allows it; the rule is in `error`",
	AddressMismatch:  "the client is not at an address of its certificate's",
	AddressUnknown:   "the names in the client's certificate have not been looked up yet",
	PeerAlert:        "the peer refused us; its alert is in `error`",
	ALPN:             "the peer does not speak \"sunrpc\"",
	ProtocolVersion:  "the peer cannot do TLS 1.3",
	NotTLS:           "what the peer sent is not TLS",
	RecordOverflow:   "the peer sent a record that is longer than TLS allows",
	Protocol:         "the peer does not keep to TLS, or agrees on nothing that this side allows",
	NoClientHello:    "the client asked for TLS and said nothing",
	Timeout:          "the handshake took too long",
	Closed:           "the peer ended the connection",
	Reset:            "the connection broke",
	NoIdentity:       "the mount is to be mutual, and no certificate is configured",
	NamedIdentity:    "the certificate that the mount names cannot be presented",
	NoKernelTLS:      "the kernel did not take the keys",
	NotInstalled:     "it is a request for the other daemon, which has never run here",
	NotAnswering:     "it is a request for the other daemon, which did not take it",
	Unsupported:      "the kernel asked for what the daemon does not do",
	OutOfResources:   "too few descriptors, too little memory, or no processor in time",
	Internal:         "a defect; please report it",
}

// Meaning returns what the reason stands for, in one line.
func (r Reason) Meaning() string { return meanings[r] }

// hints are what to look at first, one line each.
var hints = map[Reason]string{
	UnknownCA:        "is the peer's CA in `trust`, and does the peer send its intermediate certificates?",
	Expired:          "renew the peer's certificate; check both clocks",
	NotYetValid:      "check both clocks",
	WrongName:        "mount by a name or address that the certificate holds, or reissue it",
	Revoked:          "the peer needs a new certificate",
	NoRevocationInfo: "fetch a current CRL of that CA, or set crl_stale = \"warn\"",
	KeyUsage:         "reissue with serverAuth or clientAuth as fits",
	NoCertificate:    "the peer sent none; on a client, mount with xprtsec=mtls and configure `certificate`",
	NotAsked:         "the server's `trust` must be set, or mount with xprtsec=tls",
	PinMismatch:      "if the server's key was renewed on purpose, update `pin`",
	Policy:           "rpctlsctl policy test CERT --from ADDRESS says which rule of rpctlssd.toml decides, and why",
	AddressMismatch:  "the certificate must hold the client's address, or a name that DNS or /etc/hosts gives it",
	AddressUnknown:   "its name is being looked up: the client's next attempt is judged",
	PeerAlert:        "the peer's log says more",
	ALPN:             "set alpn = \"prefer\" if the peer cannot do better",
	ProtocolVersion:  "the peer must speak TLS 1.3",
	Closed:           "if the peer is the server: does it run rpctlssd or tlshd?",
	NotTLS:           "is something else listening on that port?",
	NoIdentity:       "set `certificate` and `private_key`: rpctls-client-setup FILE.bundle does",
	NamedIdentity:    "rpctlsctl cert list shows the names; `rpctlscd -check` what is wrong with one",
	NoKernelTLS:      "modprobe tls, and the cipher's module",
	NotInstalled:     "install and start that daemon, or none of its role's requests can be served",
	NotAnswering:     "is that daemon being restarted, or stopped?",
	OutOfResources:   "raise LimitNOFILE or the host's memory",
}

// Hint returns what to look at first, or "".
func (r Reason) Hint() string { return hints[r] }
