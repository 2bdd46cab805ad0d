// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"slices"
	"strings"
	"testing"
)

func TestMachineArgs(t *testing.T) {
	value := func(m machine, flag string) string {
		args := m.args()
		i := slices.Index(args, flag)
		if i < 0 {
			t.Fatalf("no %s in %q", flag, args)
		}
		return args[i+1]
	}
	m := machine{accel: tcg, cpus: 2, mem: 512, append: "one more"}
	if got := value(m, "-cpu"); got != "max" {
		t.Errorf("translated processor is %q", got)
	}
	if got := value(m, "-append"); !strings.Contains(got, "nosoftlockup") || !strings.HasSuffix(got, " one more") {
		t.Errorf("kernel's arguments are %q", got)
	}
	m.accel = kvm
	if got := value(m, "-cpu"); got != "host" {
		t.Errorf("KVM's processor is %q", got)
	}
	if got := value(m, "-append"); strings.Contains(got, "nosoftlockup") {
		t.Errorf("KVM's kernel's arguments are %q", got)
	}
	m.cpu = "max,-aes"
	if got := value(m, "-cpu"); got != "max,-aes" {
		t.Errorf("asked for processor, got %q", got)
	}
}
