// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Purpose is what a peer uses its certificate for.
type Purpose int

const (
	// ServerAuth is the purpose of a server's certificate.
	ServerAuth Purpose = iota + 1
	// ClientAuth is the purpose of a client's certificate.
	ClientAuth
)

// String returns "server" or "client".
func (p Purpose) String() string {
	switch p {
	case ServerAuth:
		return "server"
	case ClientAuth:
		return "client"
	}
	return "unknown"
}

// A Reason is why a peer was refused: one of the constants below, so that it
// can label a metric.
type Reason string

// The reasons, see [Reasons].
const (
	UnknownCA        Reason = "unknown_ca"         // no chain to a trust anchor
	Expired          Reason = "expired"            // a certificate of the chain
	NotYetValid      Reason = "not_yet_valid"      // a certificate of the chain
	WrongName        Reason = "wrong_name"         // no subject alternative name fits
	Revoked          Reason = "revoked"            // listed in a CRL
	NoRevocationInfo Reason = "no_revocation_info" // no fresh CRL, see StaleRefuse
	KeyUsage         Reason = "key_usage"          // not for this purpose
	NoCertificate    Reason = "no_certificate"     // none was sent
	BadCertificate   Reason = "bad_certificate"    // anything else
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{UnknownCA, Expired, NotYetValid, WrongName, Revoked, NoRevocationInfo, KeyUsage, NoCertificate, BadCertificate}
}

// A VerifyError is the error of [Trust.Verify]. Its text is ASCII and of bounded
// length, whatever the peer wrote into its certificate.
type VerifyError struct {
	Reason Reason
	// Subject and Fingerprint (see [Fingerprint]) are those of the
	// certificate at fault, which may be an issuer of the peer's, or even
	// the trust anchor. Both are empty with NoCertificate.
	Subject     string
	Fingerprint string
	Err         error
}

// Error returns what is wrong with which certificate.
func (e *VerifyError) Error() string {
	if e.Subject == "" {
		return fmt.Sprintf("verify peer: %v", e.Err)
	}
	return fmt.Sprintf("verify certificate \"%s\" (SHA-256 %s): %v", e.Subject, e.Fingerprint, e.Err)
}

// Unwrap returns the cause, which may be an error of crypto/x509.
func (e *VerifyError) Unwrap() error { return e.Err }

// A bounded is an error of crypto/x509 with a text fit for a log line: theirs
// quote names from certificates at any length.
type bounded struct {
	text  string
	cause error
}

func (b *bounded) Error() string { return b.text }
func (b *bounded) Unwrap() error { return b.cause }

func refuse(reason Reason, cert *x509.Certificate, format string, args ...any) *VerifyError {
	return &VerifyError{
		Reason:      reason,
		Subject:     subjectOf(cert),
		Fingerprint: Fingerprint(cert),
		Err:         fmt.Errorf(format, args...),
	}
}

var (
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

	// RFC 9289 section 5.2.1, registered as id-kp 33 and 34.
	oidRPCTLSClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 33}
	oidRPCTLSServer = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 34}
)

// Verify judges the chain that a peer sent, its own certificate first, at the
// time now, and returns the chains to trust anchors that stood, or a
// [*VerifyError].
//
// Chains are built and their dates, path lengths and name constraints checked
// by crypto/x509 (RFC 5280 section 6). Each certificate that has an extended
// key usage must allow the purpose: serverAuth or id-kp-rpcTLSServer,
// respectively clientAuth or id-kp-rpcTLSClient (RFC 9289 section 5.2.1), or
// anyExtendedKeyUsage. The peer's key usage, if any, must include
// digitalSignature, since TLS 1.3 signs with it whatever the key.
//
// An empty name is not checked. A name that is an IP address, with or without
// brackets and zone and however it is written, must be among the iPAddress
// subject alternative names; any other must fit a dNSName (RFC 6125; the common
// name does not count). No name is looked up.
//
// With CRLs, no certificate of the chain but the anchor may be listed in a CRL
// signed by its issuer, be the list stale or not, and several CRLs add up. With
// [StaleRefuse], a fresh one of the issuer of the peer's certificate is
// required; for the certificates above it, a fresh one is required where there
// is a stale one.
//
// A peer's chain has at most 10 certificates, and RSA keys have 2048 to 8192
// bits (the anchor's may be shorter).
//
// What stood is remembered until the next date at which it could fall, or
// another chain could stand: asked the same again, Verify returns the same
// without checking signatures. The zero time is the present.
func (t *Trust) Verify(chain []*x509.Certificate, p Purpose, name string, now time.Time) (chains [][]*x509.Certificate, err error) {
	if now.IsZero() {
		now = time.Now() // as crypto/x509 would: no answer is kept for year 1
	}
	if refusal := checkLimits(chain); refusal != nil {
		return nil, refusal
	}
	q := ask(chain, p, name)
	if places := t.cache.find(q, now); places != nil {
		return t.chainsAt(places, chain), nil
	}
	chains, err = t.verify(chain, p, name, now)
	if err == nil {
		t.remember(q, chain, chains, now)
	}
	return chains, err
}

// checkLimits comes before everything that costs more the more a peer sends.
func checkLimits(chain []*x509.Certificate) *VerifyError {
	if len(chain) == 0 {
		return &VerifyError{Reason: NoCertificate, Err: errors.New("no certificate was sent")}
	}
	if len(chain) > maxChain {
		return refuse(BadCertificate, chain[0], "chain of %d certificates, more than %d", len(chain), maxChain)
	}
	for _, cert := range chain {
		// Before any signature check: the cost of one grows with the key.
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return refuse(BadCertificate, cert, "RSA key of %d bits, more than %d", key.N.BitLen(), maxRSABits)
		}
	}
	return nil
}

// verify is Verify, without a memory, of a chain within the limits.
func (t *Trust) verify(chain []*x509.Certificate, p Purpose, name string, now time.Time) (chains [][]*x509.Certificate, err error) {
	leaf := chain[0]
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	if err := checkPublicKey(leaf.PublicKey); err != nil {
		return nil, refuse(BadCertificate, leaf, "%w", err)
	}
	built, err := leaf.Verify(x509.VerifyOptions{
		Roots:         t.pool,
		Intermediates: intermediates,
		CurrentTime:   now,
		// Which of them count is decided below: crypto/x509 does not
		// know those of RFC 9289.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, classify(err, leaf, now)
	}
	if !mayDigitallySign(leaf) {
		return nil, refuse(KeyUsage, leaf, "key usage lacks digitalSignature, which TLS 1.3 needs")
	}
	if refusal := checkName(leaf, name); refusal != nil {
		return nil, refusal
	}
	var worst *VerifyError
	for _, chain := range built {
		refusal := t.judge(chain, p, now)
		if refusal == nil {
			chains = append(chains, chain)
		} else if worst == nil || refusal.Reason == Revoked {
			worst = refusal
		}
	}
	if len(chains) == 0 {
		return nil, worst
	}
	return chains, nil
}

// judge checks what crypto/x509 does not, for one chain that ends at an anchor.
func (t *Trust) judge(chain []*x509.Certificate, p Purpose, now time.Time) *VerifyError {
	for i, cert := range chain {
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && i < len(chain)-1 && key.N.BitLen() < minRSABits {
			return refuse(BadCertificate, cert, "RSA key of %d bits, fewer than %d", key.N.BitLen(), minRSABits)
		}
		if !fitFor(cert, p) {
			return refuse(KeyUsage, cert, "extended key usage does not allow it for a %s (neither TLS nor RFC 9289)", p)
		}
	}
	if len(t.crls) == 0 {
		return nil
	}
	for i, cert := range chain[:len(chain)-1] {
		if refusal := t.revocation(cert, chain[i+1], i == 0, now); refusal != nil {
			return refusal
		}
	}
	return nil
}

func (t *Trust) revocation(cert, issuer *x509.Certificate, leaf bool, now time.Time) *VerifyError {
	fresh := false
	var stale, unusable error
	for _, c := range t.byName[string(issuer.RawSubject)] {
		if !c.from(issuer) {
			continue
		}
		if err := c.signedBy(issuer); err != nil {
			unusable = err
			continue
		}
		if c.lists(cert.SerialNumber) {
			return refuse(Revoked, cert, "serial %x is revoked by %s in %s", cert.SerialNumber, c.issuerName, c.where)
		}
		if !c.covers(cert) {
			continue
		}
		if err := c.stale(now); err != nil {
			stale = err
			continue
		}
		fresh = true
	}
	switch {
	case fresh || t.policy == StaleWarn || !leaf && stale == nil:
		return nil
	case stale != nil:
		return refuse(NoRevocationInfo, cert, "%w", stale)
	case unusable != nil:
		return refuse(NoRevocationInfo, cert, "%w", unusable)
	}
	return refuse(NoRevocationInfo, cert, "no CRL of its issuer %s is configured", quote(subjectOf(issuer), maxSubject))
}

// classify finds the reason in an error of crypto/x509, which says Expired also
// of what is not yet valid, and knows which certificate it is.
func classify(err error, leaf *x509.Certificate, now time.Time) *VerifyError {
	var (
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		cert := invalid.Cert
		if now.Before(cert.NotBefore) {
			return refuse(NotYetValid, cert, "%w", &bounded{"not valid before " + cert.NotBefore.UTC().Format(time.RFC3339), err})
		}
		return refuse(Expired, cert, "%w", &bounded{"expired " + cert.NotAfter.UTC().Format(time.RFC3339), err})
	case errors.As(err, &invalid) && invalid.Cert != nil:
		return refuse(BadCertificate, invalid.Cert, "%w", &bounded{clean(err.Error(), maxCause), err})
	case errors.As(err, &unknown):
		text := fmt.Sprintf("no trusted CA issued it (issuer %s): %s", quote(leaf.Issuer.String(), maxSubject), clean(err.Error(), maxCause))
		return refuse(UnknownCA, leaf, "%w", &bounded{text, err})
	}
	return refuse(BadCertificate, leaf, "%w", &bounded{clean(err.Error(), maxCause), err})
}

func hasExtension(cert *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(oid) {
			return true
		}
	}
	return false
}

// mayDigitallySign looks at the extension and not only at the bits, because
// KeyUsage is 0 both without it and with none of them set.
func mayDigitallySign(cert *x509.Certificate) bool {
	return !hasExtension(cert, oidKeyUsage) || cert.KeyUsage&x509.KeyUsageDigitalSignature != 0
}

func fitFor(cert *x509.Certificate, p Purpose) bool {
	usage, oid := x509.ExtKeyUsageServerAuth, oidRPCTLSServer
	switch p {
	case ServerAuth:
	case ClientAuth:
		usage, oid = x509.ExtKeyUsageClientAuth, oidRPCTLSClient
	default:
		return false
	}
	return !hasExtension(cert, oidExtKeyUsage) ||
		slices.Contains(cert.ExtKeyUsage, usage) ||
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) ||
		slices.ContainsFunc(cert.UnknownExtKeyUsage, oid.Equal)
}

func checkName(cert *x509.Certificate, name string) *VerifyError {
	if name == "" {
		return nil
	}
	err := cert.VerifyHostname(plainName(name))
	if err == nil {
		return nil
	}
	names := sans(cert, maxSANs)
	for i, san := range names {
		names[i] = quote(san, maxSAN)
	}
	total := len(cert.DNSNames) + len(cert.IPAddresses) + len(cert.URIs)
	have := strings.Join(names, ", ")
	switch {
	case total == 0:
		have = "no subject alternative name (a common name does not count)"
	case total > len(names):
		have += fmt.Sprintf(" and %d more", total-len(names))
	}
	return refuse(WrongName, cert, "%w", &bounded{fmt.Sprintf("want %s, certificate has %s", quote(name, maxSubject), have), err})
}

// plainName strips what an IP address literal can carry in a mount command
// (brackets, zone) and writes it in the one form that crypto/x509 knows as an
// address. Anything else is returned as it is.
func plainName(name string) string {
	literal := name
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") {
		literal = name[1 : len(name)-1]
	}
	addr, err := netip.ParseAddr(literal)
	if err != nil {
		return name
	}
	return addr.WithZone("").String()
}
