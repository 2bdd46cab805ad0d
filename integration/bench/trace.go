// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// A Queue is what trace events of the family "handshake" tell of the time
// between a request's submission and its acceptance by the agent.
type Queue struct {
	Waits   []float64 `json:"waits"`   // milliseconds, sorted
	Refused int       `json:"refused"` // the queue was full, or nobody listened
	Left    int       `json:"left"`    // submitted and never accepted
}

// "  nfsd-812  [001] .....   41.250114: handshake_submit: req=00000000a sk=00000000b"
var traceLine = regexp.MustCompile(`\s(\d+\.\d+): (handshake_submit|handshake_submit_err|handshake_cmd_accept): req=(\S+) `)

// ParseQueue reads lines of the kernel's trace, in their order.
func ParseQueue(lines []string) (*Queue, error) {
	q := new(Queue)
	submitted := make(map[string]float64)
	early := make(map[string]bool)
	for _, line := range lines {
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		at, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, fmt.Errorf("trace: line %q: %w", line, err)
		}
		switch request := m[3]; m[2] {
		case "handshake_submit":
			if early[request] {
				delete(early, request)
				q.Waits = append(q.Waits, 0)
				continue
			}
			submitted[request] = at
		case "handshake_submit_err":
			q.Refused++
		case "handshake_cmd_accept":
			begin, ok := submitted[request]
			if !ok {
				// The kernel traces a submission after it has told the
				// agent, which may have been faster.
				early[request] = true
				continue
			}
			q.Waits = append(q.Waits, (at-begin)*1000)
			// Its address will be used again.
			delete(submitted, request)
		}
	}
	q.Left = len(submitted)
	slices.Sort(q.Waits)
	return q, nil
}
