// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rpctls/internal/why"
	"rpctls/rpctlssd"
)

// etab is where exportfs(8) keeps what is exported now.
const etab = "/var/lib/nfs/etab"

// An export is a line of etab: a directory, as one kind of client sees it.
type export struct {
	path, client string
	security     []string // of none, tls, mtls; nil: all
}

// Limits of what is read.
const (
	maxExports = 4096
	maxLine    = 16 << 10
)

// parseEtab reads etab: PATH, white space, CLIENT(OPTION,...). Characters in paths
// that would be in the way are \ooo.
func parseEtab(text []byte) (list []export, err error) {
	for line := range bytes.Lines(text) {
		if len(line) > maxLine {
			return nil, fmt.Errorf("a line of over %d bytes", maxLine)
		}
		s := strings.TrimSpace(string(line))
		if s == "" || s[0] == '#' {
			continue
		}
		path, rest, ok := strings.Cut(s, "\t")
		if !ok {
			path, rest, ok = strings.Cut(s, " ")
		}
		client, options, paren := strings.Cut(strings.TrimSpace(rest), "(")
		if !ok || !paren || !strings.HasSuffix(options, ")") || path == "" || path[0] != '/' {
			return nil, errors.New("a line that is no export")
		}
		if len(list) == maxExports {
			return nil, fmt.Errorf("more than %d exports", maxExports)
		}
		e := export{path: oneLine(unescape(path)), client: oneLine(client)}
		for _, o := range strings.Split(strings.TrimSuffix(options, ")"), ",") {
			if value, ok := strings.CutPrefix(o, "xprtsec="); ok {
				e.security = strings.Split(value, ":")
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// unescape resolves \ooo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			n, ok := 0, true
			for _, c := range []byte(s[i+1 : i+4]) {
				ok = ok && c >= '0' && c <= '7'
				n = n*8 + int(c-'0')
			}
			if ok && n < 256 {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (e export) takes(s string) bool { return e.security == nil || slices.Contains(e.security, s) }

// exports compares what exports demand with what clients will show.
func exports(_ context.Context, x *exam) string {
	text, err := x.sys.Read(etab)
	if err != nil {
		return err.Error()
	}
	list, err := parseEtab(text)
	if err != nil {
		return etab + ": " + err.Error()
	}
	asks := x.server.Config.ClientCertificate
	for _, e := range list {
		evidence := fmt.Sprintf("%s for %s: xprtsec=%s, client_certificate = %q", e.path, e.client, strings.Join(e.security, ":"), asks)
		switch {
		case e.takes("tls") && !e.takes("mtls") && asks != rpctlssd.CertificateNone:
			x.found(evidence, why.Cause{What: "an export refuses clients that show a certificate, and rpctlssd asks for one", Command: "write xprtsec=tls:mtls into /etc/exports, then exportfs -ra"})
		case e.takes("mtls") && !e.takes("tls") && !e.takes("none") && asks == rpctlssd.CertificateNone:
			x.found(evidence, why.Cause{What: "an export demands a certificate of clients, and rpctlssd asks for none", Command: "set `trust` in " + x.ServerConfig + ", then systemctl reload rpctlssd"})
		}
	}
	return fmt.Sprintf("%d exports", len(list))
}
