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
		key, _, _ := strings.Cut(o, "=")
		return key == optTLS || key == optMutual || key == optCertName // with a value, too: that is said to be wrong
	})
}

// parseOptions finds out what is wanted. Without any word about TLS it is
// preferMutual: who calls it by its own name wants TLS.
func parseOptions(options []string) (wish, error) {
	var w wish
	var tls, mutual, named bool
	var xprtsec []string
	var byUser string
	var v nfsVersion
	for _, o := range options {
		if strings.Count(o, `"`)%2 != 0 {
			return w, fmt.Errorf("a quotation mark is missing in %s", o)
		}
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
		case "user", "users", "owner", "group":
			byUser = key
		}
		v.see(key, value)
		w.rest = append(w.rest, o)
	}
	w.vers4, w.clientID = v.none(), v.clientID()
	// The real helper is setuid: an ordinary user can call it by its own name,
	// with -s, for what fstab lets users mount. It then takes from there what it
	// knows, which tls is not, and mounts in clear.
	if byUser != "" && (tls || mutual || named || len(xprtsec) == 0) {
		return w, fmt.Errorf("%s: tls, mtls and tlscertname are for mounts by root: for mounts by users write xprtsec=tls or xprtsec=mtls instead", byUser)
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

// An nfsVersion is what the options say of NFS's version, as mount.nfs understands
// them: it takes some for a sign of NFSv3 where no version is given (nfs-utils,
// utils/mount/stropts.c nfs_autonegotiate).
type nfsVersion struct{ three, other, minor, hint bool }

func (v *nfsVersion) see(key, value string) {
	switch key {
	case "vers", "nfsvers":
		three := value == "3" || strings.HasPrefix(value, "3.")
		v.three, v.other = v.three || three, v.other || !three
	case "v3":
		v.three = true
	case "minorversion":
		v.minor = true
	case "mounthost", "mountaddr", "mountvers", "mountproto":
		v.hint = true
	default:
		if key == "v2" || key == "v4" || strings.HasPrefix(key, "v4.") {
			v.other = true
		}
	}
}

// none reports whether nothing is said.
func (v nfsVersion) none() bool { return v == nfsVersion{} }

// clientID reports whether it may be NFSv4.
func (v nfsVersion) clientID() bool { return v.other || !v.three && !v.hint }

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

// options are what the real helper is told. Ours come first: nothing that is wrong
// with the others can be a reason to pass over them.
func (w wish) options(a attempt, serial int32) []string {
	options := []string{optXprtSec + "=" + a.xprtsec}
	if serial != 0 {
		options = append(options, fmt.Sprintf("cert_serial=%d", serial), fmt.Sprintf("privkey_serial=%d", serial))
	}
	if w.vers4 {
		// Otherwise mount.nfs ends up at NFSv3 when everything else is refused,
		// whose side protocols are in clear.
		options = append(options, "vers=4")
	}
	return append(options, w.rest...)
}
