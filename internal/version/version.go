// SPDX-License-Identifier: BSD-3-Clause

package version

import (
	"runtime/debug"
	"time"
)

// epoch is a date before any build of this program: what Built returns when
// the build does not know its own date.
var epoch = time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)

// String is the program's version.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	var rev string
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			rev = s.Value[:12]
		}
	}
	if (v == "" || v == "(devel)") && rev != "" {
		v = "devel-" + rev
	}
	return v + " (" + info.GoVersion + ")"
}

// Built returns a time before which this program did not exist, hence one that
// no clock can truly show: that of the commit it was built from, if known, less
// a day, because the committer's clock may have been ahead.
func Built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return epoch
	}
	for _, s := range info.Settings {
		if s.Key != "vcs.time" {
			continue
		}
		if t, err := time.Parse(time.RFC3339, s.Value); err == nil && t.After(epoch) {
			return t.Add(-24 * time.Hour)
		}
	}
	return epoch
}
