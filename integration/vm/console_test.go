// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"regexp"
	"strings"
	"testing"
)

func TestScanConsole(t *testing.T) {
	for _, tt := range []struct {
		name, line, kind string
	}{
		{"panic", "[    2.373768] Kernel panic - not syncing: sysrq triggered crash", "panic"},
		{"panic with its caller", "[    2.373768][    T1] Kernel panic - not syncing: x", "panic"},
		{"oops", "[   32.127177] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI", "oops"},
		{"null pointer", "[   12.1] BUG: kernel NULL pointer dereference, address: 0000000000000008", "oops"},
		{"page fault", "[   12.1] BUG: unable to handle page fault for address: ffffc90000ca7a68", "oops"},
		{"protection fault", "[   12.1] general protection fault, probably for non-canonical address", "oops"},
		{"BUG_ON", "[   14.220630] kernel BUG at arch/x86/kernel/alternative.c:2531!", "bug"},
		{"sleeping", "[   14.220630] BUG: sleeping function called from invalid context at x.c:1", "bug"},
		{"lists", "[   14.220630] list_del corruption. prev->next should be", "bug"},
		{"reference count", "[   14.220630] refcount_t: underflow; use-after-free.", "bug"},
		{"warning", "[   14.220630] WARNING: CPU: 0 PID: 1 at net/x.c:1 f+0x1/0x2", "warning"},
		{"warning of 7.2", "[   14.220630] WARNING: net/x.c:1 at f+0x1/0x2, CPU#0: x/1", "warning"},
		{"hung task", "[  242.1] INFO: task mount.nfs:301 blocked for more than 120 seconds.", "hung task"},
		{"no memory", "[  242.1] Out of memory: Killed process 1 (x)", "out of memory"},
		{"carriage return", "[  242.1] Kernel panic - not syncing: x\r", "panic"},
		{"harmless", "[    0.672201] mtrr: your CPUs had inconsistent fixed MTRR settings", ""},
		{"said by a program", "Kernel panic - not syncing: just kidding", ""},
		{"in the middle", "[    0.6] systemd[1]: WARNING: x", ""},
		{"show blocked state", "[    5.255156] sysrq: Show Blocked State", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := scanConsole("[    0.1] before\n"+tt.line+"\n[    0.2] after\n", nil)
			switch {
			case tt.kind == "" && len(found) > 0:
				t.Errorf("found %v", found)
			case tt.kind != "" && (len(found) != 1 || found[0].Kind != tt.kind):
				t.Errorf("found %v, want %s", found, tt.kind)
			}
			if len(found) == 1 && found[0].Line != strings.TrimRight(tt.line, "\r") {
				t.Errorf("line is %q", found[0].Line)
			}
			allowed := []*regexp.Regexp{regexp.MustCompile(regexp.QuoteMeta(strings.TrimRight(tt.line, "\r")))}
			if found := scanConsole(tt.line+"\n", allowed); len(found) > 0 {
				t.Errorf("allowed, but found %v", found)
			}
		})
	}
}

func TestGuestError(t *testing.T) {
	err := &GuestError{
		Kernel: "7.2", Reason: "it stopped", QEMU: "qemu: no", Console: strings.Repeat("line\n", 100) + "the end\n",
		Findings: make([]Finding, 7),
	}
	text := err.Error()
	for _, want := range []string{"guest with kernel 7.2: it stopped\n", "  and 2 more\n", "  qemu: qemu: no\n", "\nthe end\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if n := strings.Count(text, "line\n"); n != 59 {
		t.Errorf("%d lines of the console, want 59 and the last", n)
	}
}
