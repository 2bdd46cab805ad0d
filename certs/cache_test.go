// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"weak"

	"rpctls/certs"
	"rpctls/certs/certstest"

	"github.com/google/go-cmp/cmp"
)

// asked is a call of Verify, but for trust and time.
type asked struct {
	chain   []*x509.Certificate
	purpose certs.Purpose
	name    string
}

// verdict is what a caller sees of the answer.
type verdict struct {
	Chains []string
	Reason certs.Reason
	Text   string
}

func (q asked) of(trust *certs.Trust, now time.Time) (v verdict) {
	chains, err := trust.Verify(q.chain, q.purpose, q.name, now)
	if refusal, ok := errors.AsType[*certs.VerifyError](err); ok {
		v.Reason, v.Text = refusal.Reason, refusal.Error()
	}
	for _, chain := range chains {
		var line string
		for _, cert := range chain {
			line += fmt.Sprintf("%p ", cert) // the same one, not an equal one
		}
		v.Chains = append(v.Chains, line)
	}
	return v
}

// agree wants the same answer from trust as from one without a memory, and
// reports whether it came from memory.
func (q asked) agree(t testing.TB, trust *certs.Trust, now time.Time) (hit bool, v verdict) {
	t.Helper()
	before := trust.Hits()
	v = q.of(trust, now)
	hit = trust.Hits() > before
	if diff := cmp.Diff(q.of(trust.Forgetful(), now), v); diff != "" {
		t.Errorf("at %s, from memory %t (-want as without +got):\n%s", now.Format(time.RFC3339Nano), hit, diff)
	}
	return hit, v
}

func (q asked) hits(t testing.TB, trust *certs.Trust, now time.Time) {
	t.Helper()
	if hit, _ := q.agree(t, trust, now); !hit {
		t.Errorf("at %s: not from memory", now.Format(time.RFC3339Nano))
	}
}

func (q asked) misses(t testing.TB, trust *certs.Trust, now time.Time, want certs.Reason) {
	t.Helper()
	hit, v := q.agree(t, trust, now)
	if hit || v.Reason != want {
		t.Errorf("at %s: from memory %t with reason %q, want it verified with %q", now.Format(time.RFC3339Nano), hit, v.Reason, want)
	}
}

// parsed returns the certificates as the next handshake would bring them.
func parsed(t testing.TB, chain []*x509.Certificate) (fresh []*x509.Certificate) {
	t.Helper()
	for _, cert := range chain {
		c, err := x509.ParseCertificate(bytes.Clone(cert.Raw))
		fresh = append(fresh, certstest.Must(t, c, err))
	}
	return fresh
}

func TestVerifyRemembers(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	second := certstest.MustCA(t, certstest.CAOptions{CommonName: "second"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	crossed := second.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", Key: middle.Key})
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"})
	self := certstest.MustCA(t, certstest.CAOptions{CommonName: "self", KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature})
	host := middle.MustIssue(t, certstest.Options{DNS: []string{"nfs.example"}})
	const server, client = certs.ServerAuth, certs.ClientAuth
	for name, q := range map[string]asked{
		"server":                           {host.Chain(), server, "nfs.example"},
		"client":                           {host.Chain(), client, ""},
		"out of order, with the root":      {[]*x509.Certificate{host.Cert, root.Cert, middle.Cert}, server, ""},
		"with a spare and something twice": {[]*x509.Certificate{host.Cert, stranger.Cert, middle.Cert, middle.Cert, host.Cert}, server, ""},
		"two ways up":                      {[]*x509.Certificate{host.Cert, middle.Cert, crossed.Cert}, server, ""},
		"an anchor itself":                 {[]*x509.Certificate{self.Cert}, server, ""},
	} {
		t.Run(name, func(t *testing.T) {
			trust := mustTrust(t, certs.StaleRefuse, nil, root, self, second, root)
			q.misses(t, trust, now, "")
			q.hits(t, trust, now)
			asked{parsed(t, q.chain), q.purpose, q.name}.hits(t, trust, now.Add(time.Minute))
			// What was returned is the caller's own.
			chains, err := trust.Verify(q.chain, q.purpose, q.name, now)
			must(t, err)
			for _, chain := range chains {
				clear(chain)
			}
			clear(chains)
			q.hits(t, trust, now)
		})
	}
}

func TestVerifyAsksAgainWhenAnythingDiffers(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	upper := root.MustIntermediate(t, certstest.CAOptions{CommonName: "upper"})
	lower := upper.MustIntermediate(t, certstest.CAOptions{CommonName: "lower"})
	renewed := upper.MustIntermediate(t, certstest.CAOptions{CommonName: "lower", Key: lower.Key})
	host := lower.MustIssue(t, certstest.Options{DNS: []string{"a.example", "b.example"}})
	web := lower.MustIssue(t, certstest.Options{DNS: []string{"a.example"}, EKU: []asn1.ObjectIdentifier{certstest.ServerAuth}})
	damaged := bytes.Clone(lower.Cert.Raw)
	damaged[len(damaged)-1] ^= 1 // of the signature
	forged, err := x509.ParseCertificate(damaged)
	must(t, err)
	chain := func(certs ...*x509.Certificate) []*x509.Certificate { return certs }
	const server, client = certs.ServerAuth, certs.ClientAuth
	plain := asked{chain(host.Cert, lower.Cert, upper.Cert), server, "a.example"}
	forServers := asked{chain(web.Cert, lower.Cert, upper.Cert), server, "a.example"}
	tests := []struct {
		name          string
		before, after asked
		want          certs.Reason
	}{
		{"purpose", plain, asked{plain.chain, client, "a.example"}, ""},
		{"purpose that does not fit", forServers, asked{forServers.chain, client, "a.example"}, certs.KeyUsage},
		{"name", plain, asked{plain.chain, server, "b.example"}, ""},
		{"name that does not fit", plain, asked{plain.chain, server, "c.example"}, certs.WrongName},
		{"name written in another way", plain, asked{plain.chain, server, "A.example"}, ""},
		{"no name any more", plain, asked{plain.chain, server, ""}, ""},
		{"a name at last", asked{plain.chain, server, ""}, asked{plain.chain, server, "c.example"}, certs.WrongName},
		{"order", plain, asked{chain(host.Cert, upper.Cert, lower.Cert), server, "a.example"}, ""},
		{"a certificate less", plain, asked{chain(host.Cert, lower.Cert), server, "a.example"}, certs.UnknownCA},
		{"a certificate more", plain, asked{chain(host.Cert, lower.Cert, upper.Cert, renewed.Cert), server, "a.example"}, ""},
		{"renewed intermediate", plain, asked{chain(host.Cert, renewed.Cert, upper.Cert), server, "a.example"}, ""},
		{"one bit of an intermediate", plain, asked{chain(host.Cert, forged, upper.Cert), server, "a.example"}, certs.UnknownCA},
		{"another peer", plain, forServers, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trust := mustTrust(t, certs.StaleRefuse, nil, root)
			tt.before.misses(t, trust, now, "")
			tt.before.hits(t, trust, now)
			tt.after.misses(t, trust, now, tt.want)
		})
	}
}

// No boundary between purpose, name and certificates can be moved.
func TestQuestionsAreUnambiguous(t *testing.T) {
	seen := make(map[[32]byte]string)
	for _, parts := range [][]string{
		{"", "ab"}, {"a", "b"}, {"ab", ""}, {"", "a", "b"}, {"a", "", "b"}, {"", "ab", ""}, {"", "", "ab"},
		{"", "a", "b", ""}, {"", "a", "", "b"}, {"\x00\x00\x00\x00\x00\x00\x00\x01a", "b"},
	} {
		for _, purpose := range []certs.Purpose{certs.ServerAuth, certs.ClientAuth} {
			var chain []*x509.Certificate
			for _, raw := range parts[1:] {
				chain = append(chain, &x509.Certificate{Raw: []byte(raw)})
			}
			what := fmt.Sprintf("%v %q", purpose, parts)
			_, whole := certs.Question(chain, purpose, parts[0])
			if other, ok := seen[whole]; ok {
				t.Errorf("%s is the same question as %s", what, other)
			}
			seen[whole] = what
		}
	}
}

func TestRefusalsAreNotRemembered(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"})
	host := root.MustIssue(t, certstest.Options{DNS: []string{"nfs.example"}})
	revoked := root.MustIssue(t, certstest.Options{})
	crl := root.MustCRL(t, []*big.Int{revoked.Cert.SerialNumber}, now.Add(-time.Hour), now.Add(time.Hour))
	trust := mustTrust(t, certs.StaleRefuse, [][]byte{crl}, root)
	tests := []struct {
		name string
		ask  asked
		now  time.Time
		want certs.Reason
	}{
		{"wrong name", asked{host.Chain(), certs.ServerAuth, "other.example"}, now, certs.WrongName},
		{"unknown CA", asked{stranger.MustIssue(t, certstest.Options{}).Chain(), certs.ServerAuth, ""}, now, certs.UnknownCA},
		{"no purpose", asked{host.Chain(), 0, ""}, now, certs.KeyUsage},
		{"revoked", asked{revoked.Chain(), certs.ServerAuth, ""}, now, certs.Revoked},
		{"expired", asked{host.Chain(), certs.ServerAuth, ""}, now.AddDate(1, 0, 0), certs.Expired},
		{"stale CRL", asked{host.Chain(), certs.ServerAuth, ""}, now.Add(2 * time.Hour), certs.NoRevocationInfo},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				tt.ask.misses(t, trust, tt.now, tt.want)
			}
			if n := trust.Kept(); n != 0 {
				t.Errorf("%d answers kept", n)
			}
		})
	}
	// What was refused for the clock alone is accepted when that is right.
	asked{host.Chain(), certs.ServerAuth, ""}.misses(t, trust, now, "")
}

// At every date that matters, one nanosecond before and after it, and with the
// clock stepping to and fro, the answer is that of a trust without a memory.
func TestMemoryFollowsTheClock(t *testing.T) {
	epoch := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	day := func(n int) time.Time { return epoch.AddDate(0, 0, n) }
	a := certstest.MustCA(t, certstest.CAOptions{CommonName: "a", NotBefore: day(0), NotAfter: day(100)})
	b := certstest.MustCA(t, certstest.CAOptions{CommonName: "b", NotBefore: day(25), NotAfter: day(65)})
	viaA := a.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", NotBefore: day(5), NotAfter: day(60)})
	viaB := b.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", NotBefore: day(20), NotAfter: day(80), Key: viaA.Key})
	host := viaA.MustIssue(t, certstest.Options{NotBefore: day(10), NotAfter: day(70)})
	ends := viaA.MustIssue(t, certstest.Options{NotBefore: day(15), NotAfter: day(50)})
	list := func(ca *certstest.CA, from, to int, revoked ...*x509.Certificate) []byte {
		var serials []*big.Int
		for _, cert := range revoked {
			serials = append(serials, cert.SerialNumber)
		}
		return ca.MustCRL(t, serials, day(from), day(to))
	}
	tests := []struct {
		name   string
		policy certs.StalePolicy
		crls   [][]byte
		chain  []*x509.Certificate
		want   int // of the answers from memory, at least
	}{
		{"leaf within its issuer", certs.StaleRefuse, nil, ends.Chain(), 20},
		{"leaf outlives its issuer", certs.StaleRefuse, nil, host.Chain(), 20},
		{"another root comes and goes", certs.StaleRefuse, nil, []*x509.Certificate{host.Cert, viaA.Cert, viaB.Cert}, 20},
		{"CRL with gaps", certs.StaleRefuse, [][]byte{list(viaA, 12, 30), list(viaA, 35, 55)}, host.Chain(), 10},
		{"CRL with gaps, lenient", certs.StaleWarn, [][]byte{list(viaA, 12, 30), list(viaA, 35, 55)}, host.Chain(), 20},
		{"CRL of the root goes stale", certs.StaleRefuse, [][]byte{list(viaA, 0, 100), list(a, 11, 41)}, host.Chain(), 10},
		{"CRL of one of two roots goes stale", certs.StaleRefuse, [][]byte{list(viaA, 0, 100), list(a, 11, 41)}, []*x509.Certificate{host.Cert, viaB.Cert, viaA.Cert}, 10},
		{"one of two ways revoked", certs.StaleRefuse, [][]byte{list(viaA, 0, 100), list(a, 40, 45, viaA.Cert)}, []*x509.Certificate{host.Cert, viaB.Cert, viaA.Cert}, 5},
	}
	var instants []time.Time
	for _, n := range []int{0, 5, 10, 11, 12, 15, 20, 25, 30, 35, 40, 41, 45, 50, 55, 60, 65, 70, 80, 100} {
		for _, ca := range []time.Duration{0, -5 * time.Minute} { // dates, and where a CRL begins to count
			for _, off := range []time.Duration{-time.Second, -1, 0, 1, time.Second, 12 * time.Hour} {
				instants = append(instants, day(n).Add(ca+off))
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := asked{tt.chain, certs.ServerAuth, ""}
			orders := map[string]func(){
				"forwards":  func() { slices.SortFunc(instants, time.Time.Compare) },
				"backwards": func() { slices.SortFunc(instants, func(a, b time.Time) int { return b.Compare(a) }) },
				"to and fro": func() {
					random.Shuffle(len(instants), func(i, j int) { instants[i], instants[j] = instants[j], instants[i] })
				},
			}
			for name, order := range orders {
				trust := mustTrust(t, tt.policy, tt.crls, a, b)
				order()
				hits := 0
				for _, now := range instants {
					if hit, _ := q.agree(t, trust, now); hit {
						hits++
					}
				}
				if name != "to and fro" && hits < tt.want {
					t.Errorf("%s: %d answers from memory, want %d", name, hits, tt.want)
				}
			}
		})
	}
}

// The same, one by one and in words.
func TestWhatIsRememberedExpires(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	const hour = time.Hour
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root", NotBefore: in(-40 * hour), NotAfter: in(40 * hour)})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", NotBefore: in(-30 * hour), NotAfter: in(30 * hour)})
	short := root.MustIntermediate(t, certstest.CAOptions{CommonName: "short", NotBefore: in(-10 * hour), NotAfter: in(10 * hour)})
	host := middle.MustIssue(t, certstest.Options{NotBefore: in(-20 * hour), NotAfter: in(20 * hour)})
	long := short.MustIssue(t, certstest.Options{NotBefore: in(-25 * hour), NotAfter: in(50 * hour)})
	direct := root.MustIssue(t, certstest.Options{NotBefore: in(-50 * hour), NotAfter: in(50 * hour)})
	crl := middle.MustCRL(t, nil, in(-2*hour), in(2*hour))
	tests := []struct {
		name   string
		policy certs.StalePolicy
		crls   [][]byte
		chain  []*x509.Certificate
		last   time.Time // at which the answer holds
		next   time.Time
		want   certs.Reason
	}{
		{"leaf expires", certs.StaleRefuse, nil, host.Chain(), in(20 * hour), in(20 * hour).Add(1), certs.Expired},
		{"intermediate expires", certs.StaleRefuse, nil, long.Chain(), in(10 * hour), in(10 * hour).Add(1), certs.Expired},
		{"root expires", certs.StaleRefuse, nil, direct.Chain(), in(40 * hour), in(40 * hour).Add(1), certs.Expired},
		{"clock back before the leaf", certs.StaleRefuse, nil, host.Chain(), in(-20 * hour), in(-20 * hour).Add(-1), certs.NotYetValid},
		{"clock back before the intermediate", certs.StaleRefuse, nil, long.Chain(), in(-10 * hour), in(-10 * hour).Add(-1), certs.NotYetValid},
		{"clock back before the root", certs.StaleRefuse, nil, direct.Chain(), in(-40 * hour), in(-40 * hour).Add(-1), certs.NotYetValid},
		{"nextUpdate passes", certs.StaleRefuse, [][]byte{crl}, host.Chain(), in(2 * hour), in(2 * hour).Add(1), certs.NoRevocationInfo},
		{"clock back before thisUpdate and the skew", certs.StaleRefuse, [][]byte{crl}, host.Chain(), in(-2*hour - 5*time.Minute), in(-2*hour - 5*time.Minute).Add(-1), certs.NoRevocationInfo},
		{"nextUpdate passes, lenient", certs.StaleWarn, [][]byte{crl}, host.Chain(), in(20 * hour), in(20 * hour).Add(1), certs.Expired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trust := mustTrust(t, tt.policy, tt.crls, root)
			q := asked{tt.chain, certs.ServerAuth, ""}
			q.misses(t, trust, now, "")
			q.hits(t, trust, tt.last)
			q.misses(t, trust, tt.next, tt.want)
			q.hits(t, trust, now) // that it was refused meanwhile changes nothing
		})
	}
	t.Run("the zero time is the present", func(t *testing.T) {
		trust := mustTrust(t, certs.StaleRefuse, nil, root)
		q := asked{host.Chain(), certs.ServerAuth, ""}
		q.misses(t, trust, time.Time{}, "")
		q.hits(t, trust, now)
		q.misses(t, trust, time.Time{}.Add(1), certs.NotYetValid)
	})
}

func TestReloadForgets(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	host := root.MustIssue(t, certstest.Options{})
	dir := t.TempDir()
	list := filepath.Join(dir, "list.crl")
	cfg := certs.TrustConfig{Trust: put(t, filepath.Join(dir, "ca.pem"), root.PEM(), 0o644), CRL: []string{list}}
	put(t, list, root.MustCRL(t, nil, now.Add(-time.Hour), now.Add(time.Hour)), 0o644)
	live, err := certs.NewLive(func(f *certs.Files) (*certs.Trust, error) { return certs.LoadTrust(f, cfg) })
	must(t, err)
	q := asked{host.Chain(), certs.ServerAuth, ""}
	before := live.Get()
	q.misses(t, before, now, "")
	q.hits(t, before, now)
	must(t, live.Reload())
	q.misses(t, live.Get(), now, "") // the same files
	q.hits(t, live.Get(), now)

	put(t, list, root.MustCRL(t, []*big.Int{host.Cert.SerialNumber}, now.Add(-time.Hour), now.Add(time.Hour)), 0o644)
	must(t, live.Reload())
	q.misses(t, live.Get(), now, certs.Revoked)
	q.hits(t, before, now) // a handshake that began before goes by what it began with

	cfg.CRL = nil
	put(t, cfg.Trust, certstest.MustCA(t, certstest.CAOptions{CommonName: "root"}).PEM(), 0o644)
	must(t, live.Reload())
	q.misses(t, live.Get(), now, certs.UnknownCA)
}

func TestMemoryIsBounded(t *testing.T) {
	const limit = 1024
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{})
	host := root.MustIssue(t, certstest.Options{DNS: []string{"*.example"}})
	trust := mustTrust(t, certs.StaleRefuse, nil, root)
	ask := func(i int) asked { return asked{host.Chain(), certs.ServerAuth, fmt.Sprintf("%d.example", i)} }
	const extra = 3
	for i := range limit + extra {
		if _, err := trust.Verify(ask(i).chain, certs.ServerAuth, ask(i).name, now); err != nil {
			t.Fatal(err)
		}
		if got := trust.Kept(); got != min(i+1, limit) {
			t.Fatalf("%d answers kept after %d", got, i+1)
		}
	}
	for i := extra; i < limit+extra; i++ {
		trust.Verify(ask(i).chain, certs.ServerAuth, ask(i).name, now)
	}
	if got := trust.Hits(); got != limit {
		t.Errorf("%d answers from memory, want those of the latest %d", got, limit)
	}
	for i := range extra {
		ask(i).misses(t, trust, now, "")
	}
	ask(limit+extra-1).hits(t, trust, now)
	if got := trust.Kept(); got != limit {
		t.Errorf("%d answers kept", got)
	}
}

// Certificates are public, and Verify comes before the proof that the peer has
// the key: somebody else's chain, with anything behind it, gets in.
func TestStrangersCannotPushOut(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	known, other := middle.MustIssue(t, certstest.Options{}), middle.MustIssue(t, certstest.Options{})
	trust := mustTrust(t, certs.StaleRefuse, nil, root)
	kept := asked{other.Chain(), certs.ClientAuth, ""}
	kept.misses(t, trust, now, "")
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"})
	for i := range 1100 {
		junk := *stranger.Cert // costs nothing to make
		junk.Raw = fmt.Append(nil, i)
		if _, err := trust.Verify(append(known.Chain(), &junk), certs.ClientAuth, "", now); err != nil {
			t.Fatal(err)
		}
	}
	if got := trust.Kept(); got != 2 {
		t.Errorf("%d answers kept, want one for each peer's certificate", got)
	}
	kept.hits(t, trust, now)
}

// What a peer sent is not held, only what was found out about it.
func TestMemoryHoldsNoCertificate(t *testing.T) {
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	host := middle.MustIssue(t, certstest.Options{})
	trust := mustTrust(t, certs.StaleRefuse, nil, root)
	var held []weak.Pointer[x509.Certificate]
	func() {
		chain := parsed(t, host.Chain())
		_, err := trust.Verify(chain, certs.ServerAuth, "", time.Now())
		must(t, err)
		for _, cert := range chain {
			held = append(held, weak.Make(cert))
		}
	}()
	runtime.GC()
	for i, cert := range held {
		if cert.Value() != nil {
			t.Errorf("certificate %d is held", i)
		}
	}
	asked{host.Chain(), certs.ServerAuth, ""}.hits(t, trust, time.Now())
}

// Four certificates of one CA above five of another are twenty ways up.
func TestLargeAnswersAreNotRemembered(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	upper := root.MustIntermediate(t, certstest.CAOptions{CommonName: "upper"})
	lower := upper.MustIntermediate(t, certstest.CAOptions{CommonName: "lower"})
	chain := lower.MustIssue(t, certstest.Options{}).Chain()
	for range 3 {
		chain = append(chain, upper.MustIntermediate(t, certstest.CAOptions{CommonName: "lower", Key: lower.Key}).Cert)
	}
	for range 4 {
		chain = append(chain, root.MustIntermediate(t, certstest.CAOptions{CommonName: "upper", Key: upper.Key}).Cert)
	}
	trust := mustTrust(t, certs.StaleRefuse, nil, root)
	q := asked{chain, certs.ServerAuth, ""}
	for range 2 {
		q.misses(t, trust, now, "")
	}
	if v := q.of(trust, now); len(v.Chains) != 20 || trust.Kept() != 0 {
		t.Errorf("%d chains, %d answers kept", len(v.Chains), trust.Kept())
	}
}

// For the race detector.
func TestVerifyAtTheSameTime(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	hosts := []*certstest.Pair{middle.MustIssue(t, certstest.Options{}), middle.MustIssue(t, certstest.Options{})}
	trust := mustTrust(t, certs.StaleRefuse, [][]byte{middle.MustCRL(t, nil, now, now.Add(time.Hour))}, root)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				q := asked{parsed(t, hosts[(i+n)%2].Chain()), certs.ServerAuth, ""}
				want := certs.Reason("")
				at := now
				if n%7 == 0 {
					at, want = now.Add(2*time.Hour), certs.NoRevocationInfo
				}
				if v := q.of(trust, at); v.Reason != want {
					t.Errorf("reason %q, want %q", v.Reason, want)
				}
			}
		})
	}
	wg.Wait()
	if trust.Hits() == 0 || trust.Kept() != 2 {
		t.Errorf("%d answers from memory, %d kept", trust.Hits(), trust.Kept())
	}
}

func BenchmarkVerify(b *testing.B) {
	now := time.Now()
	for _, kind := range []certstest.KeyType{certstest.EC, certstest.RSA} {
		root := certstest.MustCA(b, certstest.CAOptions{CommonName: "root", KeyType: kind})
		middle := root.MustIntermediate(b, certstest.CAOptions{CommonName: "middle", KeyType: kind})
		chain := middle.MustIssue(b, certstest.Options{DNS: []string{"nfs.example"}, KeyType: kind}).Chain()
		crl := middle.MustCRL(b, nil, now, now.Add(time.Hour))
		trust := mustTrust(b, certs.StaleRefuse, [][]byte{crl}, root)
		verify := func(b *testing.B, trust *certs.Trust) {
			if _, err := trust.Verify(chain, certs.ServerAuth, "nfs.example", now); err != nil {
				b.Fatal(err)
			}
		}
		b.Run("cold/"+string(kind), func(b *testing.B) {
			for b.Loop() {
				verify(b, trust.Forgetful())
			}
		})
		b.Run("warm/"+string(kind), func(b *testing.B) {
			for b.Loop() {
				verify(b, trust)
			}
		})
	}
}
