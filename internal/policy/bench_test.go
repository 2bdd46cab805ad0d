// SPDX-License-Identifier: BSD-3-Clause

package policy_test

import (
	"net/netip"
	"strings"
	"testing"
)

// BenchmarkDecide is what a hundred rules cost that do not match.
func BenchmarkDecide(b *testing.B) {
	cert := subject{dns: []string{"client.example.com"}, name: backup}.certificate(b)
	from := netip.MustParseAddr("192.0.2.1")
	for _, text := range []string{
		deny("dns", "*.laptops.example.com"), deny("subject", "CN=x,*"), deny("source", "198.51.100.0/24"), deny("uri", "spiffe://example.com/*"),
	} {
		field, _, _ := strings.Cut(strings.Split(text, "\n")[1], " ")
		b.Run(field, func(b *testing.B) {
			p, err := parse(strings.Repeat(text, 100))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if !p.Decide(cert, from).Allowed {
					b.Fatal("denied")
				}
			}
		})
	}
}
