// SPDX-License-Identifier: BSD-3-Clause

package configtest

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/internal/config"
)

// Comparer lets go-cmp compare address prefixes.
var Comparer = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// key is a line that sets a key, commented out or not; prose in comments has
// a space after the "#".
var key = regexp.MustCompile(`(?m)^#?(\[\[|[a-z_]+ = )`)

// Reference verifies that the file at path, with all its keys brought into
// force, decodes into the structure and leaves none of its fields out.
func Reference(tb testing.TB, path string, structure reflect.Type) {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := config.Parse(path, b, reflect.New(structure).Interface()); err != nil {
		tb.Errorf("as it is: %v", err)
	}
	all := key.ReplaceAllString(string(b), "$1")
	v := reflect.New(structure)
	if err := config.Parse(path, []byte(all), v.Interface()); err != nil {
		tb.Errorf("with every key in force: %v", err)
	}
	missing(tb, v.Elem(), "")
}

// missing reports the fields with a toml tag that were not set.
func missing(tb testing.TB, v reflect.Value, prefix string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			missing(tb, v.Field(i), prefix)
			continue
		}
		name := strings.Split(f.Tag.Get("toml"), ",")[0]
		switch {
		case name == "":
		case v.Field(i).IsZero():
			tb.Errorf("%s%s is not shown", prefix, name)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct && f.Type.Elem().NumField() > 0 && f.Type.Elem().Field(0).Tag.Get("toml") != "":
			missing(tb, v.Field(i).Index(0), name+".")
		}
	}
}
