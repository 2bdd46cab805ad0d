// SPDX-License-Identifier: BSD-3-Clause

package tlsstat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxFile and maxNames bound what is read: kernels have some twenty counters.
const (
	maxFile  = 16 << 10
	maxNames = 128
)

// Counters are the kernel's, by its names.
type Counters map[string]uint64

// Read reads those of the calling thread's network namespace. The error is
// fs.ErrNotExist where the module is not loaded.
func Read() (Counters, error) {
	f, err := os.Open("/proc/thread-self/net/tls_stat")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read tls_stat: %w", err)
	}
	return Parse(text)
}

// Parse reads the file: a name and a number on each line.
func Parse(text []byte) (Counters, error) {
	if len(text) > maxFile {
		return nil, errors.New("tls_stat is too long")
	}
	c := make(Counters)
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) != 2 {
			return nil, fmt.Errorf("tls_stat: %d words in %q", len(f), line)
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("tls_stat: %s: %w", f[0], err)
		}
		if _, twice := c[f[0]]; twice || len(c) == maxNames {
			return nil, fmt.Errorf("tls_stat: %s is one too many", f[0])
		}
		c[f[0]] = n
	}
	return c, nil
}
