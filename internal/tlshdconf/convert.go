// SPDX-License-Identifier: BSD-3-Clause

package tlshdconf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Result is a configuration in the words of the daemons.
type Result struct {
	// Client and Server are the content of rpctlscd.toml and rpctlssd.toml.
	// Server is empty if tlshd had no certificate for that role.
	Client, Server string
	// Notes say what is otherwise, one line each.
	Notes []string
}

const (
	groupDebug  = "debug"
	groupAuth   = "authenticate"
	groupClient = "authenticate.client"
	groupServer = "authenticate.server"
)

// known are the keys that tlshd 1.4.0 reads.
var known = map[string][]string{
	groupDebug:  {"loglevel", "tls", "nl", "delay_done"},
	groupAuth:   {"keyrings"},
	groupClient: roleKeys,
	groupServer: roleKeys,
}

var roleKeys = []string{"x509.truststore", "x509.crl", "x509.certificate", "x509.private_key", "x509.pq.certificate", "x509.pq.private_key"}

// A converter writes a Result. The function stat is os.Stat.
type converter struct {
	f     *File
	stat  func(path string) (fs.FileInfo, error)
	notes []string
}

// Convert translates a configuration. It looks with stat, which is os.Stat, at
// the files that are named, because tlshd goes on without one that is missing,
// and rpctls does not.
func Convert(f *File, stat func(path string) (fs.FileInfo, error)) Result {
	c := &converter{f: f, stat: stat}
	r := Result{Client: c.client(), Server: c.server()}
	c.rest()
	r.Notes = c.notes
	return r
}

func (c *converter) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

func (c *converter) client() string {
	var out strings.Builder
	trust, ok := c.path(groupClient, "x509.truststore")
	if !ok {
		trust = "system"
		c.note("[%s] names no x509.truststore: servers are trusted if a CA of the system vouches for them, as with tlshd", groupClient)
	}
	line(&out, "trust", trust)
	c.crl(&out, groupClient)
	c.identity(&out, groupClient)
	c.logLevel(&out)
	return out.String()
}

func (c *converter) server() string {
	var out strings.Builder
	if !c.identity(&out, groupServer) {
		c.note("[%s] has no certificate: rpctlssd would have nothing to show, and no rpctlssd.toml is made", groupServer)
		return ""
	}
	trust, ok := c.path(groupServer, "x509.truststore")
	if !ok {
		trust = "system"
		c.note("[%s] names no x509.truststore: any CA of the system can vouch for a client, as with tlshd; name your own CA as trust instead", groupServer)
	}
	line(&out, "trust", trust)
	c.crl(&out, groupServer)
	c.logLevel(&out)
	return out.String()
}

// line writes a setting of TOML, in whose basic strings JSON's escapes mean the
// same.
func line(out *strings.Builder, key string, value any) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic(fmt.Sprintf("internal error: encode %v: %v", value, err)) // strings and lists of them do
	}
	fmt.Fprintf(out, "%s = %s", key, strings.ReplaceAll(text.String(), "\x7f", `\u007F`))
}

// path returns the absolute path that a key names.
func (c *converter) path(group, key string) (string, bool) {
	value, ok := c.f.Get(group, key)
	if !ok || value == "" {
		return "", false
	}
	if !path.IsAbs(value) {
		c.note("[%s] %s = %s is relative: taken as from /, where tlshd runs", group, key, strconv.Quote(value))
	}
	value = path.Join("/", value)
	if info, err := c.stat(value); err != nil {
		c.note("[%s] %s: %v: tlshd went on without it, rpctls does not start", group, key, err)
	} else if info.Size() == 0 {
		c.note("[%s] %s: %s is empty: rpctls does not start", group, key, value)
	}
	return value, true
}

func (c *converter) crl(out *strings.Builder, group string) {
	value, ok := c.path(group, "x509.crl")
	if !ok {
		return
	}
	line(out, "crl", []string{value})
	c.note("[%s] x509.crl: rpctls refuses a peer whose CA has no current list there, where tlshd took a missing one for nobody revoked (crl_stale = \"warn\" accepts)", group)
}

// identity reports whether there is one.
func (c *converter) identity(out *strings.Builder, group string) bool {
	cert, hasCert := c.f.Get(group, "x509.certificate")
	key, hasKey := c.f.Get(group, "x509.private_key")
	switch {
	case !hasCert && !hasKey:
		return false
	case !hasCert || !hasKey:
		c.note("[%s] has only one of x509.certificate and x509.private_key: left out, as tlshd did not use it either", group)
		return false
	case isURL(cert) || isURL(key):
		c.note("[%s] x509.private_key = %s has no counterpart: keys in tokens are not supported", group, strconv.Quote(key))
		return false
	}
	cert, certOK := c.path(group, "x509.certificate")
	key, keyOK := c.path(group, "x509.private_key")
	if !certOK || !keyOK {
		return false
	}
	line(out, "certificate", cert)
	line(out, "private_key", key)
	if info, err := c.stat(key); err == nil {
		switch mode := info.Mode().Perm(); {
		case mode&0o027 != 0:
			c.note("%s has mode %04o: rpctls refuses a key that others can read (chgrp rpctls, chmod 0640)", key, mode)
		case mode&0o040 == 0:
			c.note("%s has mode %04o: the daemons run as user rpctls, not as root (chgrp rpctls, chmod 0640)", key, mode)
		}
	}
	return true
}

// isURL tells GnuTLS's key URLs, such as pkcs11: and tpmkey:, from paths.
func isURL(s string) bool {
	scheme, _, ok := strings.Cut(s, ":")
	return ok && !strings.ContainsAny(scheme, "/.")
}

func (c *converter) logLevel(out *strings.Builder) {
	if c.number(groupDebug, "loglevel") > 0 {
		line(out, "log_level", "debug")
	}
}

// number is 0 for what is none, as in tlshd.
func (c *converter) number(group, key string) int {
	value, _ := c.f.Get(group, key)
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0
	}
	return n
}

// rest notes what was not looked at yet.
func (c *converter) rest() {
	for _, key := range []string{"tls", "nl", "delay_done"} {
		if c.number(groupDebug, key) > 0 {
			c.note("[%s] %s has no counterpart", groupDebug, key)
		}
	}
	if value, ok := c.f.Get(groupAuth, "keyrings"); ok && value != "" {
		c.note("[%s] keyrings has no counterpart: certificates are named in the configuration, by server in [[server]] blocks", groupAuth)
	}
	for _, group := range []string{groupClient, groupServer} {
		for _, key := range []string{"x509.pq.certificate", "x509.pq.private_key"} {
			if value, ok := c.f.Get(group, key); ok && value != "" {
				c.note("[%s] %s has no counterpart: no ML-DSA certificates (the key exchange is post-quantum by itself)", group, key)
			}
		}
	}
	for _, s := range c.f.Settings {
		if !slices.Contains(known[s.Group], s.Key) {
			c.note("line %d: [%s] %s is not known to tlshd 1.4.0 and left out", s.Line, strconv.Quote(s.Group), strconv.Quote(s.Key))
		}
	}
}
