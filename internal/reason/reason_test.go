// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package reason

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

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

func shake(err error) error { return &ktls.HandshakeError{Err: err} }

func TestOf(t *testing.T) {
	garbage := tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}
	sent := func(a ktls.Alert, err error) error { return shake(&ktls.AlertError{Alert: a, Err: err}) }
	got := func(a ktls.Alert) error { return shake(&ktls.AlertError{Alert: a, Remote: true}) }
	tests := []struct {
		err      error
		want     Reason
		definite bool
	}{
		{nil, OK, false},
		{shake(&certs.VerifyError{Reason: certs.Revoked, Err: errors.New("x")}), Revoked, true},
		{shake(&PinError{}), PinMismatch, true},
		{shake(&policy.Refusal{}), Policy, true},
		{shake(&ktls.AlertError{Alert: ktls.AlertAccessDenied, Err: &policy.Refusal{}}), Policy, true},
		{shake(&forward.MismatchError{Answer: forward.Answer{Verdict: forward.No}}), AddressMismatch, true},
		{shake(&forward.MismatchError{}), AddressUnknown, false},
		{ErrNoIdentity, NoIdentity, true},
		{ErrNotAsked, NotAsked, true},
		{fmt.Errorf("%w: key 7: revoked", ErrNamedIdentity), NamedIdentity, true},
		{shake(alpn.ErrNotAgreed), ALPN, true},
		{got(ktls.AlertNoApplicationProtocol), ALPN, true},
		{sent(ktls.AlertNoApplicationProtocol, errors.New("x")), ALPN, true},
		{got(ktls.AlertUnknownCA), PeerAlert, true},
		{got(ktls.AlertCloseNotify), Closed, false},
		{got(ktls.AlertProtocolVersion), ProtocolVersion, true},
		{sent(ktls.AlertProtocolVersion, errors.New("x")), ProtocolVersion, true},
		{sent(ktls.AlertProtocolVersion, garbage), NotTLS, true},
		{sent(ktls.AlertRecordOverflow, garbage), RecordOverflow, true},
		{sent(ktls.AlertUnexpectedMessage, errors.New("x")), Protocol, true},
		{shake(garbage), NotTLS, true},
		{shake(ktls.ErrNoFirstRecord), NoClientHello, false},
		{shake(ktls.ErrLeftover), Protocol, true},
		{shake(ktls.ErrNoTurn), OutOfResources, false},
		{shake(ktls.ErrCipher), NoKernelTLS, true},
		{shake(errors.New("tls: something")), Protocol, true},
		{shake(os.ErrDeadlineExceeded), Timeout, false},
		{shake(unix.ECONNRESET), Reset, false},
		{shake(unix.ECONNABORTED), Reset, false},
		{shake(os.NewSyscallError("read", unix.EHOSTUNREACH)), Reset, false},
		{shake(os.NewSyscallError("read", unix.ECONNABORTED)), Reset, false},
		{shake(os.ErrNoDeadline), Internal, false},
		{&ktls.InstallError{Op: "TLS_RX", Err: unix.ENOMEM}, OutOfResources, false},
		{shake(io.EOF), Closed, false},
		{&ktls.InstallError{Op: "TLS_RX", Err: unix.EINVAL}, NoKernelTLS, true},
		{&ktls.InstallError{Op: "TCP_ULP", Err: unix.ENOTCONN}, Closed, false},
		{fmt.Errorf("x: %w", handover.ErrNotInstalled), NotInstalled, true},
		{fmt.Errorf("x: %w", handover.ErrNotAnswering), NotAnswering, false},
		{fmt.Errorf("x: %w", unix.EMFILE), OutOfResources, false},
		{&upcall.RefusedError{}, Unsupported, true},
		{netns.ErrGone, Unsupported, true},
		{errors.New("x"), Internal, false},
	}
	for _, tt := range tests {
		r := Of(tt.err)
		if r != tt.want || r.Definite() != tt.definite {
			t.Errorf("%v: %s, definite %v; want %s, %v", tt.err, r, r.Definite(), tt.want, tt.definite)
		}
	}
}

// Every reason a certificate can be refused for is one of ours, and every
// reason is in the manual.
func TestTheSetIsClosedAndDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range certs.Reasons() {
		if !Reason(r).Definite() {
			t.Errorf("%s is not definite", r)
		}
	}
	for _, r := range All() {
		if !strings.Contains(string(text), "`"+string(r)+"`") {
			t.Errorf("%s is not in docs/reasons.md", r)
		}
	}
}
