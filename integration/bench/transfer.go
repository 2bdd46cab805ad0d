// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Transfer is what command benchktls says of one.
type Transfer struct {
	Cipher     string  `json:"cipher"`
	Driver     string  `json:"driver,omitempty"` // the kernel's, for AES-GCM
	MiB        int     `json:"mib"`
	Elapsed    float64 `json:"elapsed"`     // seconds
	GuestCPU   float64 `json:"guest_cpu"`   // seconds that the machine was busy
	ProcessCPU float64 `json:"process_cpu"` // seconds charged to sender and receiver
}

// Rate returns mebibytes per second.
func (x *Transfer) Rate() float64 { return float64(x.MiB) / x.Elapsed }

func (x *Transfer) perGiB(seconds float64) float64 { return seconds * 1024 / float64(x.MiB) }

func (x *Transfer) String() string {
	return fmt.Sprintf("%d MiB in %.2fs, %.1f MiB/s, CPU %.2fs, of processes %.2fs, %s %s", x.MiB, x.Elapsed, x.Rate(), x.GuestCPU, x.ProcessCPU, x.Cipher, x.Driver)
}

// userHZ is the unit of /proc/stat in a second, on every architecture that has
// Go (include/uapi/asm-generic/param.h).
const userHZ = 100

// Idle tells from the text of /proc/stat (proc_stat(5)) how many processors
// there are, and how many seconds all of them together have had nothing to do.
// The kernel measures that time; what a processor does it only samples at its
// ticks, some of which a guest on a busy machine never has.
func Idle(stat string) (seconds float64, processors int, err error) {
	for line := range strings.Lines(stat) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		if f[0] != "cpu" {
			processors++
			continue
		}
		for _, field := range f[4:6] { // idle, and idle while a disk is waited for
			n, err := strconv.ParseUint(field, 10, 56)
			if err != nil {
				return 0, 0, fmt.Errorf("/proc/stat: %w", err)
			}
			seconds += float64(n) / userHZ
		}
	}
	if processors == 0 {
		return 0, 0, errors.New("/proc/stat: no processors")
	}
	return seconds, processors, nil
}

// GCMDriver finds in the text of /proc/crypto which of its implementations of
// AES-GCM the kernel uses, or "" if it has none yet: the one of the highest
// priority (Documentation/crypto/architecture.rst).
func GCMDriver(crypto string) (driver string) {
	best := -1
	for block := range strings.SplitSeq(crypto, "\n\n") {
		field := make(map[string]string)
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(line, ":")
			field[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		priority, err := strconv.Atoi(field["priority"])
		if field["name"] == "gcm(aes)" && field["internal"] != "yes" && err == nil && priority > best {
			driver, best = field["driver"], priority
		}
	}
	return driver
}
