// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Load is what came of one run of benchload, as it prints it.
type Load struct {
	Clients   int            `json:"clients"`
	Elapsed   float64        `json:"elapsed"`            // seconds, from the first connect to the last close
	OK        int            `json:"ok"`                 // connections that got their encrypted reply
	Failed    map[string]int `json:"failed,omitempty"`   // all others, by step and reason
	Examples  []string       `json:"examples,omitempty"` // of errors, the first of each kind
	Latencies []float64      `json:"latencies"`          // of OK in milliseconds, sorted
}

// Total returns how many connections were made.
func (l *Load) Total() int {
	n := l.OK
	for _, f := range l.Failed {
		n += f
	}
	return n
}

// Rate returns the successful connections per second.
func (l *Load) Rate() float64 {
	if l.Elapsed <= 0 {
		return 0
	}
	return float64(l.OK) / l.Elapsed
}

// Add counts one connection. It took so long, or failed in a step.
func (l *Load) Add(took time.Duration, step string, err error) {
	if err == nil {
		l.OK++
		l.Latencies = append(l.Latencies, float64(took.Microseconds())/1000)
		return
	}
	kind := step + ": " + Reason(err)
	if l.Failed == nil {
		l.Failed = make(map[string]int)
	}
	if l.Failed[kind]++; l.Failed[kind] == 1 {
		l.Examples = append(l.Examples, step+": "+err.Error())
	}
}

// Finish completes what Add has counted.
func (l *Load) Finish(elapsed time.Duration) {
	l.Elapsed = elapsed.Seconds()
	slices.Sort(l.Latencies)
}

// Merge returns the sum of several loads of the same kind.
func Merge(loads ...*Load) *Load {
	sum := new(Load)
	for _, l := range loads {
		sum.Clients = max(sum.Clients, l.Clients)
		sum.Elapsed += l.Elapsed
		sum.OK += l.OK
		for kind, n := range l.Failed {
			if sum.Failed == nil {
				sum.Failed = make(map[string]int)
			}
			sum.Failed[kind] += n
		}
		sum.Latencies = append(sum.Latencies, l.Latencies...)
	}
	slices.Sort(sum.Latencies)
	return sum
}

// String says what failed, the most frequent first.
func (l *Load) String() string {
	text := fmt.Sprintf("%d of %d", l.OK, l.Total())
	kinds := slices.SortedFunc(maps.Keys(l.Failed), func(a, b string) int {
		if d := l.Failed[b] - l.Failed[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for i, kind := range kinds {
		separator := ", "
		if i == 0 {
			separator = "; "
		}
		text += fmt.Sprintf("%s%s %d", separator, kind, l.Failed[kind])
	}
	return text
}

// Reason sorts an error of a connection into one of a few kinds.
func Reason(err error) string {
	var alert tls.AlertError
	var record tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.As(err, &alert):
		return "alert"
	case errors.As(err, &record):
		return "not TLS"
	case errors.As(err, &certificate):
		return "certificate"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "other"
}
