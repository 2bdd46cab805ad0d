// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"rpctls/packaging/manifest"
	"rpctls/rpctlsctl/exportercmd"
)

// rules is a file of alert rules, as far as ours go.
type rules struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []struct {
			Alert       string            `yaml:"alert"`
			Expr        string            `yaml:"expr"`
			For         string            `yaml:"for"`
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"rules"`
	} `yaml:"groups"`
}

// metric is a name in a query, or a label of one that is filtered by.
var metric = regexp.MustCompile(`\brpctls_[a-z_]+`)

// checkQuery: the metrics exist, labels that are compared with words as well, and
// brackets are pairs.
func checkQuery(where, expr string, names []string) error {
	found := metric.FindAllString(expr, -1)
	for _, m := range found {
		if !slices.Contains(names, m) {
			return fmt.Errorf("%s: there is no %s", where, m)
		}
	}
	if len(found) == 0 && !strings.HasPrefix(expr, "up{") {
		return fmt.Errorf("%s: %q is about nothing of ours", where, expr)
	}
	var open []rune
	quoted := false
	for _, r := range expr {
		if r == '"' {
			quoted = !quoted
		}
		if quoted {
			continue
		}
		if strings.ContainsRune("([{", r) {
			open = append(open, r)
		}
		if i := strings.IndexRune(")]}", r); i >= 0 {
			if len(open) == 0 || open[len(open)-1] != rune("([{"[i]) {
				return fmt.Errorf("%s: brackets in %q", where, expr)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 || quoted {
		return fmt.Errorf("%s: brackets or quotes in %q", where, expr)
	}
	return nil
}

// parseRules reads rules, and refuses what Prometheus would.
func parseRules(text []byte) (rules, error) {
	var r rules
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&r); err != nil {
		return r, err
	}
	if err := d.Decode(new(any)); err != io.EOF {
		return r, errors.New("more than one document")
	}
	seen := make(map[string]bool)
	for _, g := range r.Groups {
		for _, a := range g.Rules {
			if !regexp.MustCompile(`^Rpctls[A-Za-z]+$`).MatchString(a.Alert) || seen[a.Alert] {
				return r, fmt.Errorf("%q is no name, or the second of its kind", a.Alert)
			}
			seen[a.Alert] = true
			if _, err := time.ParseDuration(a.For); err != nil {
				return r, fmt.Errorf("%s: %w", a.Alert, err)
			}
			if !slices.Contains([]string{"warning", "critical"}, a.Labels["severity"]) || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
				return r, fmt.Errorf("%s: severity, summary or description is missing", a.Alert)
			}
			if err := checkQuery(a.Alert, a.Expr, exportercmd.Names()); err != nil {
				return r, err
			}
			for _, text := range a.Annotations {
				if strings.Count(text, "{{") != strings.Count(text, "}}") {
					return r, fmt.Errorf("%s: braces in %q", a.Alert, text)
				}
			}
		}
	}
	return r, nil
}

// TestAlerts: by what we know of rules, and by Prometheus' own program where there
// is one.
func TestAlerts(t *testing.T) {
	const file = "monitoring/rpctls-alerts.yml"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRules(text)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprint(r)
	for _, what := range []string{
		"rpctls_up == 0", "rpctls_identity_expiry_timestamp_seconds", "rpctls_crl_next_update_timestamp_seconds", `rpctls_handshakes_total{result="failure"}`,
		"rpctls_upcalls_dropped_total", `rpctls_kernel_tls_errors_total{error="decrypt"}`, "rpctls_other_agents", "rpctls_keylog_active == 1",
	} {
		if !strings.Contains(all, what) {
			t.Errorf("no alert about %s", what)
		}
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
	// It does look.
	for from, to := range map[string]string{
		"rpctls_other_agents > 0": "rpctls_other_agent > 0", "rpctls_up == 0": "(rpctls_up == 0", "severity: critical": "severity: loud", "for: 5m": "for: soon",
		"summary:": "sumary:", "groups:": "group:",
	} {
		if _, err := parseRules(bytes.Replace(text, []byte(from), []byte(to), 1)); err == nil {
			t.Errorf("%q is found good", to)
		}
	}
}

// TestDashboard: what Grafana needs of a panel is there, and what it asks for
// exists.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("monitoring/rpctls-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title    string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ RefID, Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || len(d.UID) > 40 || d.Title == "" || d.SchemaVersion == 0 || len(d.Panels) == 0 {
		t.Errorf("uid %q, title %q, schema %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	ids := make(map[int]bool)
	used := make(map[string]bool)
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 || !slices.Contains([]string{"stat", "timeseries"}, p.Type) {
			t.Errorf("panel %d, %q, a %s with %d queries", p.ID, p.Title, p.Type, len(p.Targets))
		}
		ids[p.ID] = true
		if g := p.GridPos; g.W <= 0 || g.H <= 0 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s is at %+v", p.Title, g)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%s covers %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		refs := make(map[string]bool)
		for _, q := range p.Targets {
			if refs[q.RefID] || q.RefID == "" {
				t.Errorf("%s: query %q twice", p.Title, q.RefID)
			}
			refs[q.RefID] = true
			if err := checkQuery(p.Title, q.Expr, exportercmd.Names()); err != nil {
				t.Error(err)
			}
			for _, m := range metric.FindAllString(q.Expr, -1) {
				used[m] = true
			}
			for _, v := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !slices.Contains(variables, v[1]) && v[1] != "__rate_interval" {
					t.Errorf("%s: no variable %s", p.Title, v[1])
				}
			}
		}
	}
	// What is worth being counted is worth being seen.
	for _, name := range exportercmd.Names() {
		if !used[name] && !slices.Contains([]string{"rpctls_build_info", "rpctls_start_time_seconds", "rpctls_kernel_tls_loaded", "rpctls_kernel_tls_sessions_opened_total"}, name) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

func TestMonitoringIsComplete(t *testing.T) {
	files, err := filepath.Glob("monitoring/*")
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	if !slices.Equal(files, manifest.Monitoring) {
		t.Errorf("there are %q, the manifest has %q", files, manifest.Monitoring)
	}
}
