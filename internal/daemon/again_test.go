// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/agent"
	"rpctls/internal/config"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
	"rpctls/upcall"
	"rpctls/upcall/upcalltest"
)

// Time ends no session, and hides nothing that does.
func TestJudgeAgain(t *testing.T) {
	now := time.Now()
	ca, stranger := certstest.MustCA(t, certstest.CAOptions{}), certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"})
	past := certstest.Options{NotBefore: now.Add(-9 * time.Hour), NotAfter: now.Add(-time.Hour)}
	good, expired, future := ca.MustIssue(t, certstest.Options{}), ca.MustIssue(t, past), ca.MustIssue(t, certstest.Options{NotBefore: now.Add(time.Hour)})
	dir := t.TempDir()
	trusting := func(who *certstest.CA, crls ...[]byte) *certs.Trust {
		path := filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(path, who.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := certs.TrustConfig{Trust: path}
		for i, der := range crls {
			name := filepath.Join(dir, fmt.Sprint(i, ".crl"))
			if err := os.WriteFile(name, der, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg.CRL = append(cfg.CRL, name)
		}
		trust, err := certs.LoadTrust(new(certs.Files), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return trust
	}
	list := func(p ...*certstest.Pair) []byte {
		return ca.MustCRL(t, certstest.Serials(p...), now.Add(-time.Minute), now.Add(time.Hour))
	}
	stale := func(p ...*certstest.Pair) []byte {
		return ca.MustCRL(t, certstest.Serials(p...), now.Add(-2*time.Hour), now.Add(-time.Hour))
	}
	for _, tt := range []struct {
		name  string
		pair  *certstest.Pair
		trust *certs.Trust
		want  reason.Reason
	}{
		{"good", good, trusting(ca), reason.OK},
		{"good, not in the CRL", good, trusting(ca, list(expired)), reason.OK},
		{"revoked", good, trusting(ca, list(good)), reason.Revoked},
		{"unknown CA", good, trusting(stranger), reason.UnknownCA},
		{"expired", expired, trusting(ca), reason.OK},
		{"expired, with a newer CRL", expired, trusting(ca, list()), reason.OK},
		{"expired and revoked", expired, trusting(ca, list(expired)), reason.Revoked},
		{"expired, and the CA is gone", expired, trusting(stranger), reason.UnknownCA},
		{"not yet valid", future, trusting(ca, list()), reason.OK},
		{"not yet valid and revoked", future, trusting(ca, list(future)), reason.Revoked},
		{"CRL is stale", good, trusting(ca, stale()), reason.OK},
		{"CRL is stale and lists it", good, trusting(ca, stale(good)), reason.Revoked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chain := tt.pair.Chain()
			err := judgeAgain(now, chain, func(at time.Time) error {
				_, err := tt.trust.Verify(chain, certs.ClientAuth, "", at)
				return err
			})
			if got := reason.Of(err); got != tt.want {
				t.Errorf("%s, want %s (%v)", got, tt.want, err)
			}
		})
	}
}

// judgingRole judges by a list of serial numbers.
type judgingRole struct {
	live *certs.Live[refused]
}

type refused struct{ serials []*big.Int }

var errRefused = errors.New("its serial number is refused")

func (*judgingRole) Role() upcall.Role                                 { return upcall.Server }
func (*judgingRole) Plan(*upcall.Request) (agent.Plan, error)          { return agent.Plan{}, nil }
func (*judgingRole) Judge(*upcall.Request, agent.Result) agent.Verdict { return agent.Verdict{} }
func (r *judgingRole) Rejudge(_ *sessions.Session, chain []*x509.Certificate, _ time.Time) error {
	for _, s := range r.live.Get().serials {
		if len(chain) > 0 && chain[0].SerialNumber.Cmp(s) == 0 {
			return errRefused
		}
	}
	return nil
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A list that changes has the kernel end real connections of this process: the one
// that it names, and not its neighbour.
func TestChangeEndsSessions(t *testing.T) {
	diag, err := sockdiag.Open()
	if err != nil {
		t.Skip(err)
	}
	defer diag.Close()
	if err := diag.Available(); err != nil {
		t.Skip(err)
	}
	ca := certstest.MustCA(t, certstest.CAOptions{})
	victim, other := ca.MustIssue(t, certstest.Options{CommonName: "victim"}), ca.MustIssue(t, certstest.Options{CommonName: "other"})
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := certs.NewLive(func(f *certs.Files) (*refused, error) {
		text, err := f.Read(file)
		if err != nil {
			return nil, err
		}
		n, ok := new(big.Int).SetString(string(text), 10)
		if !ok {
			return nil, errors.New("no number")
		}
		return &refused{[]*big.Int{n}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	log := new(buffer)
	p := Program[int, refused]{Name: "rpctlssd"}
	r := p.registry(&judgingRole{live}, live, config.Settings{RuntimeDirectory: config.Path(t.TempDir())}, nil, slog.New(slog.NewTextHandler(log, nil)))
	r.Load()
	r.Renew(live.Generation())
	conns := make(map[*certstest.Pair]*connection)
	for _, pair := range []*certstest.Pair{victim, other} {
		c := connect(t)
		conns[pair] = c
		id, err := sockdiag.Identify(c.server, c.local, c.remote)
		if err != nil {
			t.Fatal(err)
		}
		s := &sessions.Session{ID: id, Role: "server", Began: time.Now(), Generation: live.Generation()}
		s.SetChain(pair.Chain())
		r.Add(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.JudgeAgain(ctx) }()
	if err := os.WriteFile(file, []byte(victim.Cert.SerialNumber.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := live.Reload(); err != nil {
		t.Fatal(err)
	}
	r.Renew(live.Generation())
	gone := make(chan error)
	go func() { _, err := conns[victim].client.Read(make([]byte, 1)); gone <- err }()
	select {
	case err := <-gone:
		if err == nil {
			t.Error("data came from nowhere")
		}
	case <-time.After(20 * time.Second):
		if strings.Contains(log.String(), "CONFIG_INET_DIAG_DESTROY") || os.Geteuid() != 0 {
			t.Skip(log)
		}
		t.Fatalf("the connection lives; log %s", log)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, part := range []string{"session ended", "CN=victim", certs.Fingerprint(victim.Cert), "refused"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %q: %s", part, log)
		}
	}
	if _, err := conns[other].client.Write([]byte("x")); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	if _, err := conns[other].server.Read(make([]byte, 1)); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	if len(r.Sessions()) != 1 {
		t.Errorf("%d sessions", len(r.Sessions()))
	}
}

type connection struct {
	client, server *net.TCPConn
	local, remote  netip.AddrPort // of the server's end
}

func connect(t *testing.T) *connection {
	kernel, peer := upcalltest.SocketPair(t)
	return &connection{
		client: peer, server: kernel,
		local: kernel.LocalAddr().(*net.TCPAddr).AddrPort(), remote: kernel.RemoteAddr().(*net.TCPAddr).AddrPort(),
	}
}
