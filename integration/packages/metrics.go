// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"strings"
	"testing"
)

// get prints what a URL of this machine answers, and fails unless that is 200.
const get = `perl -MIO::Socket::INET -e '
	my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:9920", Timeout => 10) or die "connect: $!\n";
	print $s "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
	my ($head, $body) = split /\r\n\r\n/, do { local $/; <$s> }, 2;
	$head =~ m,^HTTP/1\.\d 200 , or die "$head\n";
	print $body'`

// metrics: the exporter as its unit runs it, without rights, says what Prometheus'
// own program finds good, and so are the rules that are shipped.
func (s *story) metrics(t *testing.T) {
	s.server.must(t, "systemctl enable --now rpctls-exporter")
	text := s.server.must(t, "set -o pipefail; "+get+" | tee metrics")
	for _, want := range []string{
		`rpctls_up{role="server"} 1`, `rpctls_up{role="client"} `, `rpctls_sessions{`,
		`result="success"`, `rpctls_identity_expiry_timestamp_seconds{`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the exporter does not say %s:\n%s", want, text)
		}
	}
	s.server.must(t, "promtool check metrics <metrics")
	s.server.must(t, "promtool check rules /usr/share/rpctls/monitoring/rpctls-alerts.yml")
	who := strings.TrimSpace(s.server.must(t, "ps -o user:32= -p "+s.server.pid(t, "rpctls-exporter")))
	if who != "rpctls-exporter" {
		t.Errorf("the exporter is %q", who)
	}
	status := s.server.must(t, "grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/"+s.server.pid(t, "rpctls-exporter")+"/status")
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		want := "0000000000000000"
		switch name {
		case "NoNewPrivs":
			want = "1"
		case "Seccomp":
			want = "2"
		}
		if value != want {
			t.Errorf("the exporter has %s %s, want %s", name, value, want)
		}
	}
	s.server.must(t, "systemctl disable --now rpctls-exporter")
}
