// SPDX-License-Identifier: BSD-3-Clause

package certs

import "time"

// A CRLInfo describes a CRL that is in use.
type CRLInfo struct {
	Where      string // file, and PEM block if it is PEM
	Issuer     string // subject of the CA, printable
	ThisUpdate time.Time
	NextUpdate time.Time
	Revoked    int // how many certificates it lists
}

// CRLs returns the CRLs that the trust goes by, in the order in which they were
// loaded.
func (t *Trust) CRLs() []CRLInfo {
	list := make([]CRLInfo, 0, len(t.crls))
	for _, c := range t.crls {
		list = append(list, CRLInfo{Where: c.where, Issuer: c.issuerName, ThisUpdate: c.thisUpdate, NextUpdate: c.nextUpdate, Revoked: len(c.revoked)})
	}
	return list
}

// Subjects returns those of the first most trust anchors, printable.
func (t *Trust) Subjects(most int) []string {
	list := make([]string, 0, min(most, len(t.anchors)))
	for _, a := range t.anchors[:min(most, len(t.anchors))] {
		list = append(list, subjectOf(a.cert))
	}
	return list
}
