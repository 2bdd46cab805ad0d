// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"bytes"
	"sync"
)

// A syncBuffer may be read while a program still writes to it.
type syncBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed at the next write, if somebody asked
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// watch returns what there is from offset on, and a channel that is closed
// when there is more.
func (s *syncBuffer) watch(offset int) (text string, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return string(s.b.Bytes()[offset:]), s.changed
}
