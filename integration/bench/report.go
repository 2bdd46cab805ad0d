// SPDX-License-Identifier: BSD-3-Clause

package bench

import "slices"

// ReportFile is the name of the report among the results of a guest.
const ReportFile = "bench.json"

// A System is one of the servers that are compared.
type System string

// The systems. For bulk data, Limit is NFS without TLS.
const (
	Limit  System = "limit"
	Rpctls System = "rpctls"
	TLSHD  System = "tlshd"
)

// Systems returns all of them, in the table's order.
func Systems() []System { return []System{Limit, Rpctls, TLSHD} }

// Where a program's TLS is done: in user space, in the kernel, or in the kernel
// with sendfile(2) besides.
const (
	UserTLS   System = "crypto/tls"
	KernelTLS System = "ktls"
	Sendfile  System = "sendfile"
)

// Libraries returns them in the table's order.
func Libraries() []System { return []System{UserTLS, KernelTLS, Sendfile} }

// A Report is what one guest measured.
type Report struct {
	Release   string   `json:"release"` // of the kernel
	TLSHD     string   `json:"tlshd"`   // version
	CPUs      int      `json:"cpus"`
	MemoryMiB int      `json:"memory_mib"`
	Threads   int      `json:"threads"` // of nfsd
	Rounds    int      `json:"rounds"`
	Records   []Record `json:"records"`
}

// A Record is one measurement of a figure.
type Record struct {
	Figure   string             `json:"figure"`
	System   System             `json:"system"`
	Round    int                `json:"round"`
	Load     *Load              `json:"load,omitempty"`
	Written  *Load              `json:"written,omitempty"` // to a mount, meanwhile
	Queue    *Queue             `json:"queue,omitempty"`
	Transfer *Transfer          `json:"transfer,omitempty"`
	Values   map[string]float64 `json:"values,omitempty"`
}

// Of returns the records of a figure of a system, by round.
func (r *Report) Of(figure string, system System) []Record {
	var found []Record
	for _, rec := range r.Records {
		if rec.Figure == figure && rec.System == system {
			found = append(found, rec)
		}
	}
	slices.SortStableFunc(found, func(a, b Record) int { return a.Round - b.Round })
	return found
}

// Driver returns which AES-GCM of the kernel's was used for package ktls.
func (r *Report) Driver() string {
	for _, rec := range r.Records {
		if rec.System == KernelTLS && rec.Transfer != nil {
			return rec.Transfer.Driver
		}
	}
	return "unknown"
}
