// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"crypto/tls"
	"slices"
	"testing"

	"rpctls/integration/guest"
	"rpctls/ktls"
)

// A conformanceCase is one thing that a connection must do, whoever carries it.
type conformanceCase struct {
	name     string
	versions []uint16    // nil is both
	roles    []ktls.Role // nil is both
	run      func(x *trial)
}

var (
	only12 = []uint16{tls.VersionTLS12}
	only13 = []uint16{tls.VersionTLS13}

	onlyClient = []ktls.Role{ktls.RoleClient}
	onlyServer = []ktls.Role{ktls.RoleServer}
)

var cases = slices.Concat(dataCases, ticketCases, finishedCases, rekeyCases, closeCases, failureCases, copyCases, fallbackCases)

// TestCases runs the table in both modes, in both versions and roles. The ciphers
// take turns.
func TestCases(t *testing.T) {
	each(t, func(t *testing.T, m mode) {
		for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
			for _, role := range bothRoles {
				t.Run(versionName(version)+"/"+role.String(), func(t *testing.T) {
					runTable(t, m, version, role, cases)
				})
			}
		}
	})
}

// runTable runs those cases of a table that are for a version and role, each with
// its accounts checked.
func runTable(t *testing.T, m mode, version uint16, role ktls.Role, table []conformanceCase) {
	all := slices.DeleteFunc(slices.Clone(suites), func(s suite) bool { return s.version != version })
	for i, c := range table {
		if c.versions != nil && !slices.Contains(c.versions, version) || c.roles != nil && !slices.Contains(c.roles, role) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			audit(t, m, func(a *account) {
				x := newTrial(t, m, role, all[i%len(all)], a)
				defer x.finish()
				c.run(x)
			})
		})
	}
}

// kernel reports whether our end is to be the kernel's.
func (x *trial) kernel() bool { return x.mode.kernel && kernelHasTLS(x.T) }

// rekeys reports whether whoever carries our end can change keys. In user space
// crypto/tls follows the peer, on any kernel.
func (x *trial) rekeys() bool {
	return !x.kernel() || guest.KernelVersion(x.T).AtLeast(guest.Version{Major: 6, Minor: 14})
}
