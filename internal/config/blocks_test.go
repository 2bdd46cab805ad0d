// SPDX-License-Identifier: BSD-3-Clause

package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Blocks are found where they are blocks, and nowhere else.
func TestBlocks(t *testing.T) {
	tests := []struct {
		name, text string
		want       []Block
	}{
		{"none", "x = 1\n", nil},
		{"in order", "x = 1\n[[b]]\ny = 1\n\n[[a]]\n# [[a]]\n[[b]]\n", []Block{{"b", 2}, {"a", 5}, {"b", 7}}},
		{"quoted, spaced", "[[ \"a\" ]]\n[['b']]\n[[\"\\u0061\"]]\n", []Block{{"a", 1}, {"b", 2}, {"a", 3}}},
		{"in one line", "b = [{x = 1}, {x = 2}]\na = [\n{x = 1},\n]\n", []Block{{"b", 1}, {"b", 1}, {"a", 2}}},
		{"in a string", "x = '''\n[[a]]\n'''\n[[b]]\nx = \"[[a]]\"\n", []Block{{"b", 4}}},
		{"of other tables", "[c]\na = [{x = 1}]\n[[c.a]]\n[[d]]\nb = [{}]\n[[d.b]]\n", nil},
		{"no tables", "a = [1, 2]\nb = 'x'\n", nil},
		{"dotted", "c.a = [{x = 1}]\na.b = 1\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Blocks([]byte(tt.text), "a", "b")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got, err := Blocks([]byte("[[a]\n"), "a"); err == nil {
		t.Errorf("no TOML: %v", got)
	}
}
