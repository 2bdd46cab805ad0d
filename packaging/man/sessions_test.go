// SPDX-License-Identifier: BSD-3-Clause

package man_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"rpctls/internal/sessions"
	"rpctls/rpctlsctl/sessionscmd"
)

// The fields of sessions --json.
func TestSessionsJSON(t *testing.T) {
	p := read(t, "rpctlsctl.8")
	var fields, documented []string
	for _, typ := range []reflect.Type{reflect.TypeFor[sessionscmd.Entry](), reflect.TypeFor[sessions.Certificate]()} {
		for i := range typ.NumField() {
			if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "" {
				fields = append(fields, name)
			}
		}
	}
	for _, line := range p.part(t, "Sessions for programs") {
		words := macro(line)
		if i := slices.Index(words, "Dv"); i >= 0 {
			for _, w := range words[i+1:] {
				if w != "," && w != "." {
					documented = append(documented, w)
				}
			}
		}
	}
	compare(t, "sessions --json", p.file, fields, documented)
}
