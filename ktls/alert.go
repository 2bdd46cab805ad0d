// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"errors"
	"fmt"
	"net"
	"reflect"
)

// An Alert is a TLS AlertDescription (RFC 8446 section 6).
type Alert uint8

// The alerts that this package or its callers send or look for.
const (
	AlertCloseNotify           Alert = 0
	AlertUnexpectedMessage     Alert = 10
	AlertRecordOverflow        Alert = 22
	AlertBadCertificate        Alert = 42
	AlertCertificateRevoked    Alert = 44
	AlertCertificateExpired    Alert = 45
	AlertCertificateUnknown    Alert = 46
	AlertUnknownCA             Alert = 48
	AlertAccessDenied          Alert = 49
	AlertProtocolVersion       Alert = 70
	AlertUserCanceled          Alert = 90
	AlertCertificateRequired   Alert = 116
	AlertNoApplicationProtocol Alert = 120
)

// Those that only this package sends.
const (
	alertBadRecordMAC     Alert = 20
	alertIllegalParameter Alert = 47
	alertDecodeError      Alert = 50
	alertInternalError    Alert = 80
	alertNoRenegotiation  Alert = 100 // TLS 1.2, RFC 5246 section 7.2.2
)

// alertNames are the names in RFC 8446 appendix B.2 and RFC 7301 section 3.2.
var alertNames = map[Alert]string{
	0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow",
	40: "handshake_failure", 42: "bad_certificate", 43: "unsupported_certificate",
	44: "certificate_revoked", 45: "certificate_expired", 46: "certificate_unknown",
	47: "illegal_parameter", 48: "unknown_ca", 49: "access_denied", 50: "decode_error",
	51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security",
	80: "internal_error", 86: "inappropriate_fallback", 90: "user_canceled",
	109: "missing_extension", 110: "unsupported_extension", 112: "unrecognized_name",
	113: "bad_certificate_status_response", 115: "unknown_psk_identity",
	100: "no_renegotiation", 116: "certificate_required", 120: "no_application_protocol",
}

// String returns the alert's name in RFC 8446, or "alert(N)".
func (a Alert) String() string {
	if n, ok := alertNames[a]; ok {
		return n
	}
	return fmt.Sprintf("alert(%d)", uint8(a))
}

// alertWords say what an alert of a peer means to whoever got it.
var alertWords = map[Alert]string{
	20:  "it could not authenticate a record",
	40:  "it found no parameters that both sides allow",
	42:  "it will not have our certificate; often the name in it is not the one it wants",
	43:  "our certificate is of a kind that it cannot use here, such as one for the other role",
	44:  "our certificate has been revoked",
	45:  "our certificate has expired, by its clock",
	46:  "it will not have our certificate, for a reason of its own",
	47:  "a value of ours was out of range, in its view",
	48:  "it does not know the CA of our certificate",
	49:  "its policy does not let us in",
	51:  "a signature or the handshake's end did not verify",
	70:  "it cannot do our version of TLS",
	71:  "it wants stronger cryptography",
	80:  "something failed at its end that is not about us",
	112: "it has no certificate for the name we asked for",
	113: "it will not have what our certificate's OCSP staple says",
	116: "it wants a certificate and we sent none",
	120: "it does not agree on the protocol (ALPN)",
}

// Words returns what the alert means when a peer sends it, in a few words, or "".
func (a Alert) Words() string { return alertWords[a] }

// An AlertError reports the alert that ended a handshake or a session.
type AlertError struct {
	Alert  Alert
	Remote bool // the peer sent it; otherwise this side did
	Err    error
}

func (e *AlertError) Error() string {
	if e.Remote {
		text := "peer sent alert " + e.Alert.String()
		if w := e.Alert.Words(); w != "" {
			text += ": " + w
		}
		return text
	}
	return fmt.Sprintf("%v (alert %v sent)", e.Err, e.Alert)
}

// Unwrap returns what made this side send the alert; nil for the peer's.
func (e *AlertError) Unwrap() error { return e.Err }

// remoteAlert returns the alert inside an error of crypto/tls. Its alert type
// is not exported, its documentation of the "remote error" operation and its
// kind are stable.
func remoteAlert(err error) (Alert, bool) { return tlsAlert(err, "remote error") }

// localAlert is remoteAlert for the alert that crypto/tls has sent.
func localAlert(err error) (Alert, bool) { return tlsAlert(err, "local error") }

func tlsAlert(err error, operation string) (Alert, bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != operation || op.Err == nil {
		return 0, false
	}
	v := reflect.ValueOf(op.Err)
	if v.Kind() != reflect.Uint8 {
		return 0, false
	}
	return Alert(v.Uint()), true
}

// RemoteAlert returns the alert of the peer inside an error of crypto/tls, for
// those who use it in user space.
func RemoteAlert(err error) (Alert, bool) { return remoteAlert(err) }

// AlertNamed returns the alert of that name in RFC 8446.
func AlertNamed(name string) (Alert, bool) {
	for a, n := range alertNames {
		if n == name {
			return a, true
		}
	}
	return 0, false
}

// alerter is implemented by verification errors that know which alert tells
// the peer what is wrong.
type alerter interface {
	error
	TLSAlert() uint8
}
