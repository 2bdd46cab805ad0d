// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const pemBegin = "-----BEGIN "

// errNoPEM says what is most often wrong with a file that holds no PEM.
var errNoPEM = errors.New("no PEM block found (a DER file has to be converted)")

// decodePEM calls each for every PEM block (RFC 7468) of data with its
// number, from 1. Text around the blocks is passed over, as openssl writes it,
// but a block that does not decode is an error, where pem.Decode would skip
// it: a damaged certificate in a bundle must not quietly shrink the trust.
func decodePEM(data []byte, each func(n int, block *pem.Block) error) error {
	for n := 1; ; n++ {
		block, rest := pem.Decode(data)
		begins := countBegins(data[:len(data)-len(rest)])
		switch {
		case block == nil && countBegins(data) == 0 && n == 1:
			return errNoPEM
		case block == nil && countBegins(data) == 0:
			return nil
		case block == nil || begins != 1:
			return fmt.Errorf("PEM block %d: malformed", n)
		}
		if err := each(n, block); err != nil {
			return fmt.Errorf("PEM block %d: %w", n, err)
		}
		data = rest
	}
}

// countBegins counts the lines that begin a PEM block.
func countBegins(data []byte) int {
	n := bytes.Count(data, []byte("\n"+pemBegin))
	if bytes.HasPrefix(data, []byte(pemBegin)) {
		n++
	}
	return n
}

func isPrivateKey(blockType string) bool {
	return strings.HasSuffix(blockType, "PRIVATE KEY")
}

// Fingerprint returns the SHA-256 digest of the certificate's DER encoding in
// lower-case hexadecimal, as `openssl x509 -fingerprint -sha256` prints it but
// without colons.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Limits, in bytes before quoting, of what reaches a text from a certificate.
const (
	maxSubject = 128
	maxSAN     = 64
	maxSANs    = 8
	maxCause   = 256
)

// clean makes text from a certificate fit for a log line: at most limit bytes
// of it, in ASCII, with everything else and quotes escaped.
func clean(s string, limit int) string {
	suffix := ""
	if len(s) > limit {
		s, suffix = s[:limit], "..."
	}
	s = strconv.QuoteToASCII(s)
	return s[1:len(s)-1] + suffix
}

func quote(s string, limit int) string { return `"` + clean(s, limit) + `"` }

// subjectOf names a certificate: its subject (RFC 4514) or, where that is
// empty, its first subject alternative name.
func subjectOf(cert *x509.Certificate) string {
	if s := cert.Subject.String(); s != "" {
		return clean(s, maxSubject)
	}
	if names := sans(cert, 1); len(names) > 0 {
		return clean(names[0], maxSubject)
	}
	return "(no name)"
}

// sans lists up to limit subject alternative names of the kinds that name
// hosts and services: "dns:...", "ip:...", "uri:...".
func sans(cert *x509.Certificate, limit int) []string {
	var names []string
	add := func(kind, name string) bool {
		names = append(names, kind+name)
		return len(names) < limit
	}
	for _, name := range cert.DNSNames {
		if !add("dns:", name) {
			return names
		}
	}
	for _, ip := range cert.IPAddresses {
		if !add("ip:", ip.String()) {
			return names
		}
	}
	for _, uri := range cert.URIs {
		if !add("uri:", uri.String()) {
			return names
		}
	}
	return names
}
