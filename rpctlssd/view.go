// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import "rpctls/certs"

// Identities are those that the daemon shows, the main one first.
func (l *Loaded) Identities() []*certs.Identity { return l.identities }

// Trust is whom clients may be vouched for by; nil if they are not asked.
func (l *Loaded) Trust() *certs.Trust { return l.trust }
