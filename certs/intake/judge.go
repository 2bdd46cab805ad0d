// SPDX-License-Identifier: BSD-3-Clause

package intake

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"rpctls/certs"
	"rpctls/certs/san"
)

// expirySoon is how long before the end the judgement begins to speak of it.
const expirySoon = 30 * 24 * time.Hour

// Wanted is what the material shall be good for.
type Wanted struct {
	// Purpose is 0 for the one that the certificate allows.
	Purpose certs.Purpose
	// Names must be in the certificate, at least.
	Names san.Names
	// Anchors are trusted, and the chain must end at one of them. Without
	// any, it must end at a self-signed CA in the material.
	Anchors []*x509.Certificate
	// Known are CAs that are trusted already. One of them may end the chain
	// if nothing in the material continues it.
	Known []*x509.Certificate
	Now   time.Time
}

// An Identity is what the material amounts to.
type Identity struct {
	Purpose certs.Purpose
	Key     crypto.Signer
	// Chain is what to send: the leaf first, without the anchor.
	Chain []*x509.Certificate
	// Anchor is where it ends.
	Anchor *x509.Certificate
	// Notes are what is not wrong but worth knowing, one line each.
	Notes []string
}

// A Problem is one thing that is wrong.
type Problem string

// The kinds of problems begin their texts.
const (
	noKey           = "no private key"
	keyDoesNotFit   = "key does not fit"
	noCertificate   = "no certificate"
	chainIncomplete = "chain incomplete"
	caFlagMissing   = "CA flag missing"
	nameMissing     = "name missing"
	wrongUsage      = "wrong extended key usage"
	notYetValid     = "not yet valid"
	expired         = "expired"
	refused         = "would be refused"
)

// A Refusal is the error of [Material.Judge]: everything that is wrong.
type Refusal struct{ Problems []Problem }

// Error returns the problems, separated by "; ".
func (r *Refusal) Error() string {
	var texts []string
	for _, p := range r.Problems {
		texts = append(texts, string(p))
	}
	return strings.Join(texts, "; ")
}

// Judge finds the certificate that belongs to the private key and builds its
// chain. The error is a [*Refusal].
func (m *Material) Judge(w Wanted) (*Identity, error) {
	j := &judge{m: m, w: w}
	id := j.identity()
	if len(j.problems) > 0 {
		return nil, &Refusal{j.problems}
	}
	return id, nil
}

type judge struct {
	m        *Material
	w        Wanted
	problems []Problem
}

func (j *judge) problem(kind, format string, args ...any) {
	j.problems = append(j.problems, Problem(kind+": "+fmt.Sprintf(format, args...)))
}

func (j *judge) identity() *Identity {
	leaf, key := j.pair()
	if leaf == nil {
		return nil
	}
	chain, anchor := j.chain(*leaf)
	id := &Identity{Purpose: j.purpose(leaf.Certificate), Key: key, Anchor: anchor}
	for _, c := range chain {
		id.Chain = append(id.Chain, c.Certificate)
	}
	j.dates(chain)
	j.names(leaf.Certificate)
	if len(j.problems) > 0 {
		return nil
	}
	// What is left is what the daemons of this project would say.
	trust, err := certs.NewTrust([]*x509.Certificate{anchor})
	if err == nil {
		_, err = trust.Verify(id.Chain, id.Purpose, "", j.w.Now)
	}
	if err != nil {
		j.problem(refused, "%v", err)
		return nil
	}
	id.Notes = j.notes(chain, anchor)
	return id
}

// pair finds the certificate that belongs to the key.
func (j *judge) pair() (*located, crypto.Signer) {
	switch len(j.m.keys) {
	case 0:
		j.problem(noKey, "neither among the files nor waiting from a request (give it with --key)")
		return nil, nil
	case 1:
	default:
		j.problem(keyDoesNotFit, "%d private keys (%s, %s), want one", len(j.m.keys), j.m.keys[0].where, j.m.keys[1].where)
		return nil, nil
	}
	key := j.m.keys[0]
	if err := certs.CheckPublicKey(key.Public()); err != nil {
		j.problem(keyDoesNotFit, "%s: %v", key.where, err)
		return nil, nil
	}
	var found []located
	var others []string
	for _, c := range j.m.certs {
		if samePublic(c.PublicKey, key.Public()) {
			found = append(found, c)
		} else if !isCA(c.Certificate) {
			others = append(others, fmt.Sprintf("%s (%s)", c.where, certs.Subject(c.Certificate)))
		}
	}
	switch {
	case len(found) == 1 && isCA(found[0].Certificate):
		j.problem(keyDoesNotFit, "%s is the private key of the CA %s, which belongs to the CA alone", key.where, certs.Subject(found[0].Certificate))
	case len(found) == 1:
		return &found[0], key.Signer
	case len(found) > 1:
		j.problem(keyDoesNotFit, "%s has %d certificates (%s, %s): give the one to install", key.where, len(found), found[0].where, found[1].where)
	case len(others) > 0:
		j.problem(keyDoesNotFit, "%s does not belong to %s", key.where, strings.Join(others[:min(len(others), 3)], " nor to "))
	default:
		j.problem(noCertificate, "none of %d is a host's: the certificate that the CA issued is not among the files", len(j.m.certs))
	}
	return nil, nil
}

func isCA(cert *x509.Certificate) bool { return cert.BasicConstraintsValid && cert.IsCA }

func selfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, cert.RawIssuer) && signed(cert, cert)
}

func signed(issuer, cert *x509.Certificate) bool {
	return issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// chain follows the issuers from the leaf up, among all certificates that were
// brought, whatever their order. It returns the chain without the anchor.
func (j *judge) chain(leaf located) ([]located, *x509.Certificate) {
	chain := []located{leaf}
	for {
		last := chain[len(chain)-1]
		if selfSigned(last.Certificate) {
			j.problem(chainIncomplete, "%s (%s) signed itself: no CA vouches for it", last.where, certs.Subject(last.Certificate))
			return chain, nil
		}
		issuer, isAnchor := j.issuer(last.Certificate)
		switch {
		case issuer == nil:
			j.problem(chainIncomplete, "%s (%s) was issued by %q, whose certificate is not among the files",
				last.where, certs.Subject(last.Certificate), certs.Printable(last.Issuer.String()))
			return chain, nil
		case !isCA(issuer.Certificate):
			j.problem(caFlagMissing, "%s (%s) issued %s but is no CA (basicConstraints)", issuer.where, certs.Subject(issuer.Certificate), certs.Subject(last.Certificate))
			return chain, nil
		case isAnchor:
			return chain, issuer.Certificate
		case len(chain) == 9:
			j.problem(chainIncomplete, "more than %d certificates lead to no trusted CA", len(chain))
			return chain, nil
		}
		chain = append(chain, *issuer)
	}
}

// issuer finds who signed cert, preferring an anchor.
func (j *judge) issuer(cert *x509.Certificate) (issuer *located, isAnchor bool) {
	for _, a := range j.w.Anchors {
		if bytes.Equal(a.RawSubject, cert.RawIssuer) && signed(a, cert) {
			return &located{a, "trusted CA"}, true
		}
	}
	for _, c := range j.m.certs {
		if !bytes.Equal(c.RawSubject, cert.RawIssuer) || !signed(c.Certificate, cert) {
			continue
		}
		if self := selfSigned(c.Certificate); !self || len(j.w.Anchors) == 0 {
			return &c, self
		}
	}
	if len(j.w.Anchors) > 0 {
		return nil, false
	}
	for _, k := range j.w.Known {
		if bytes.Equal(k.RawSubject, cert.RawIssuer) && signed(k, cert) {
			return &located{k, "trusted CA"}, true
		}
	}
	return nil, false
}

func (j *judge) purpose(leaf *x509.Certificate) certs.Purpose {
	server, client := certs.ServerAuth.Allows(leaf), certs.ClientAuth.Allows(leaf)
	switch w := j.w.Purpose; {
	case w != 0 && w.Allows(leaf):
		return w
	case w != 0:
		tls, rpc := w.Usages()
		j.problem(wrongUsage, "%s is not for a %s: ask the CA for %s (TLS) or %s (RFC 9289)", certs.Subject(leaf), w, tls, rpc)
	case server && client:
		j.problem(wrongUsage, "%s may be a server's or a client's: say which with --kind", certs.Subject(leaf))
	case server:
		return certs.ServerAuth
	case client:
		return certs.ClientAuth
	default:
		j.problem(wrongUsage, "%s is neither for a server nor for a client", certs.Subject(leaf))
	}
	return 0
}

func (j *judge) dates(chain []located) {
	for _, c := range chain {
		switch {
		case j.w.Now.Before(c.NotBefore):
			j.problem(notYetValid, "%s (%s) begins %s (is the clock right?)", c.where, certs.Subject(c.Certificate), c.NotBefore.UTC().Format(time.RFC3339))
		case j.w.Now.After(c.NotAfter):
			j.problem(expired, "%s (%s) ended %s", c.where, certs.Subject(c.Certificate), c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
}

func (j *judge) names(leaf *x509.Certificate) {
	have := san.Known(leaf)
	var missing []string
	for _, name := range j.w.Names.Strings() {
		one, err := san.Parse(name)
		if err != nil {
			continue // cannot be: it is a name
		}
		hosts := one.Hosts()
		if len(hosts) == 1 && leaf.VerifyHostname(hosts[0]) == nil || have.Has(one) {
			continue // perhaps by a wildcard
		}
		missing = append(missing, one.String())
	}
	if len(missing) > 0 {
		text := have.String()
		if text == "" {
			text = "no subject alternative name (a common name does not count)"
		}
		j.problem(nameMissing, "want %s, the certificate has %s", strings.Join(missing, ", "), text)
	}
}

func (j *judge) notes(chain []located, anchor *x509.Certificate) []string {
	var notes []string
	for _, c := range append(slices.Clone(chain), located{anchor, "CA"}) {
		if left := c.NotAfter.Sub(j.w.Now); left < expirySoon {
			notes = append(notes, fmt.Sprintf("%s (%s) expires in %d days, %s", c.where, certs.Subject(c.Certificate),
				left/(24*time.Hour), c.NotAfter.UTC().Format(time.RFC3339)))
		}
	}
	for _, c := range j.m.certs {
		if !c.Equal(anchor) && !slices.ContainsFunc(chain, func(l located) bool { return l.Equal(c.Certificate) }) {
			notes = append(notes, fmt.Sprintf("%s (%s) is not part of the chain and is left out", c.where, certs.Subject(c.Certificate)))
		}
	}
	return notes
}
