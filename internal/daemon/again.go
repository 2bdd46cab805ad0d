// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"crypto/x509"
	"log/slog"
	"time"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/config"
	"rpctls/internal/netns"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
)

// A Rejudger is a role that can judge the peer of a session that lives, as it
// would in a handshake. The chain is what the peer sent then; it may be empty.
type Rejudger interface {
	Rejudge(s *sessions.Session, chain []*x509.Certificate, now time.Time) error
}

// registry makes the memory of the role's sessions.
func (p Program[C, S]) registry(role agent.Role, live *certs.Live[S], settings config.Settings, spaces *netns.Set, log *slog.Logger) *sessions.Registry {
	return sessions.New(sessions.Config{
		Directory: string(settings.RuntimeDirectory), Daemon: p.Name, Log: log,
		Explain: func(err error) string { return string(reason.Of(err)) },
		Kernel: func(namespace uint64) (k sessions.Kernel, err error) {
			err = spaces.Do(namespace, func() error {
				conn, err := sockdiag.Open()
				if err == nil {
					k = conn
				}
				return err
			})
			return k, err
		},
		Judge: func(s *sessions.Session) (uint64, error) {
			generation := live.Generation() // of nothing later than what judges
			r, ok := role.(Rejudger)
			if !ok {
				return generation, nil
			}
			chain, err := s.Chain()
			if err != nil {
				return generation, err
			}
			return generation, judgeAgain(time.Now(), chain, func(now time.Time) error { return r.Rejudge(s, chain, now) })
		},
	})
}

// judgeAgain judges the peer of a session that lives. Time alone ends none: a
// certificate that has run out, a CRL that has, a clock that was set back keep a
// peer from the next handshake, but a mount that is in use does not die of what
// everybody knew when it was allowed. Whether anything else is wrong, such as a
// revocation, is then asked of the time when the certificates were valid.
func judgeAgain(now time.Time, chain []*x509.Certificate, judge func(time.Time) error) error {
	err := judge(now)
	if !onlyTime(err) {
		return err
	}
	if err = judge(within(chain, now)); onlyTime(err) {
		return nil
	}
	return err
}

func onlyTime(err error) bool {
	switch reason.Of(err) {
	case reason.Expired, reason.NotYetValid, reason.NoRevocationInfo:
		return true
	}
	return false
}

// within returns the time nearest to now at which all the certificates were valid.
func within(chain []*x509.Certificate, now time.Time) time.Time {
	for _, cert := range chain {
		if now.Before(cert.NotBefore) {
			now = cert.NotBefore
		}
	}
	for _, cert := range chain {
		if now.After(cert.NotAfter) {
			now = cert.NotAfter
		}
	}
	return now
}
