// SPDX-License-Identifier: BSD-3-Clause

package mountnfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"rpctls/certs"
	"rpctls/internal/mountinfo"
)

// A policy is how a mount shall be protected.
type policy string

const (
	// preferMutual: encrypted, and with this host's certificate if there is
	// one and the server wants to see it.
	preferMutual policy = "tls"
	// onlyTLS: encrypted, without a certificate.
	onlyTLS policy = "xprtsec=tls"
	// onlyMutual: encrypted, with a certificate.
	onlyMutual policy = "mtls"
)

// What a mount's options say beside NFS.
type wish struct {
	policy   policy
	identity string   // of tlscertname; empty: the configuration's
	rest     []string // the options without ours and without xprtsec=
	serial   string   // the user names a certificate by the serial of a key
	remount  bool
	// vers4 and clientID say what the options mean for NFS's version: that none
	// is set, so that it is for us to say 4, and that it is 4, whose clients have
	// an identifier.
	vers4, clientID bool
}

// The options that are ours.
const (
	optTLS      = "tls"
	optMutual   = "mtls"
	optCertName = "tlscertname"
	optXprtSec  = "xprtsec"
)

// ours reports whether any of the options is for this package alone.
func ours(options []string) bool {
	return slices.ContainsFunc(options, func(o string) bool {
		key, _, has := strings.Cut(o, "=")
		return !has && (o == optTLS || o == optMutual) || key == optCertName
	})
}

// parseOptions finds out what is wanted. Without any word about TLS it is
// preferMutual: who calls it by its own name wants TLS.
func parseOptions(options []string) (wish, error) {
	w := wish{clientID: true, vers4: true}
	var tls, mutual, named bool
	var xprtsec []string
	for _, o := range options {
		key, value, has := strings.Cut(o, "=")
		switch key {
		case optTLS, optMutual:
			if has {
				return w, fmt.Errorf("option %s takes no value", key)
			}
			tls, mutual = tls || key == optTLS, mutual || key == optMutual
			continue
		case optCertName:
			if err := certs.CheckName(value); err != nil {
				return w, fmt.Errorf("tlscertname: %w", err)
			}
			if named && w.identity != value {
				return w, fmt.Errorf("tlscertname=%s contradicts tlscertname=%s", value, w.identity)
			}
			named, w.identity = true, value
			continue
		case optXprtSec:
			xprtsec = append(xprtsec, value)
			continue
		case "cert_serial", "privkey_serial":
			if w.serial == "" || key == "cert_serial" {
				w.serial = value
			}
		case "remount":
			w.remount = true
		case "v3", "mountproto", "mountvers", "mounthost", "mountaddr", "mountport":
			w.vers4, w.clientID = false, false
		case "vers", "nfsvers":
			w.vers4, w.clientID = false, strings.HasPrefix(value, "4")
		case "minorversion":
			w.vers4 = false
		default:
			if key == "v4" || strings.HasPrefix(key, "v4.") {
				w.vers4 = false
			}
		}
		w.rest = append(w.rest, o)
	}
	if named && w.serial != "" {
		return w, errors.New("tlscertname contradicts cert_serial and privkey_serial: both name a certificate")
	}
	switch {
	case named || mutual:
		w.policy = onlyMutual
	default:
		w.policy = preferMutual
	}
	if w.remount {
		// What the mount has cannot be changed; mount(8) repeats it beside what
		// fstab says.
		for _, x := range xprtsec {
			w.rest = append(w.rest, optXprtSec+"="+x)
		}
		return w, nil
	}
	for _, x := range xprtsec {
		p := map[string]policy{mountinfo.TLS: onlyTLS, mountinfo.Mutual: onlyMutual}[x]
		switch {
		case p == "":
			return w, fmt.Errorf("xprtsec=%s is not TLS", x)
		case w.policy == onlyMutual && p != onlyMutual, tls && !mutual && !named && p == onlyMutual, w.policy == onlyTLS && p != onlyTLS:
			return w, fmt.Errorf("xprtsec=%s contradicts the other options about TLS", x)
		}
		w.policy = p
	}
	return w, nil
}

// An attempt is one way to do a mount.
type attempt struct {
	xprtsec  string // mountinfo.TLS or mountinfo.Mutual
	identity string // as in wish
	serial   string // the same
}

// kind tells the attempts apart whose connections must not be mixed up.
func (a attempt) kind() string {
	switch {
	case a.xprtsec != mountinfo.Mutual:
		return a.xprtsec
	case a.serial != "":
		return a.xprtsec + "#" + a.serial
	case a.identity != "":
		return a.xprtsec + ":" + a.identity
	}
	return a.xprtsec
}

// attempts are the ways to fulfil the wish, the best first. There is a second one
// only for who asked for TLS and not for a certificate.
func (w wish) attempts(haveIdentity bool) []attempt {
	switch w.policy {
	case onlyMutual:
		return []attempt{{mountinfo.Mutual, w.identity, w.serial}}
	case onlyTLS:
		return []attempt{{xprtsec: mountinfo.TLS}}
	}
	if haveIdentity || w.serial != "" {
		return []attempt{{mountinfo.Mutual, "", w.serial}, {xprtsec: mountinfo.TLS}}
	}
	return []attempt{{xprtsec: mountinfo.TLS}}
}

// options are what the real helper is told.
func (w wish) options(a attempt, serial int32) []string {
	options := append(slices.Clone(w.rest), optXprtSec+"="+a.xprtsec)
	if serial != 0 {
		options = append(options, fmt.Sprintf("cert_serial=%d", serial), fmt.Sprintf("privkey_serial=%d", serial))
	}
	if w.vers4 {
		// Otherwise mount.nfs ends up at NFSv3 when everything else is refused,
		// whose side protocols are in clear.
		options = append(options, "vers=4")
	}
	return options
}
