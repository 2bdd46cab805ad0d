// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLoadOrder(t *testing.T) {
	const dep = `kernel/drivers/block/virtio_blk.ko:
kernel/net/a-b.ko: kernel/lib/c.ko.xz kernel/lib/d.ko
kernel/lib/c.ko.xz: kernel/lib/d.ko
kernel/lib/d.ko:
`
	const builtin = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio-pci.ko\n"
	for _, tt := range []struct {
		name  string
		names []string
		want  []string
		err   string
	}{
		{"built in and module", []string{"virtio_pci", "virtio_blk", "ext4"}, []string{"kernel/drivers/block/virtio_blk.ko"}, ""},
		{"what is needed comes first", []string{"a_b", "c"}, []string{"kernel/lib/d.ko", "kernel/lib/c.ko.xz", "kernel/net/a-b.ko"}, ""},
		{"unknown", []string{"nosuch"}, nil, `no module "nosuch"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadOrder(tt.names, dep, builtin)
			checkError(t, err, tt.err)
			if !slices.Equal(got, tt.want) {
				t.Errorf("order is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestKeptModule(t *testing.T) {
	for file, want := range map[string]bool{
		"kernel/net/tls/tls.ko.xz":                true,
		"kernel/drivers/net/veth.ko":              true,
		"kernel/drivers/net/vethernet.ko":         false,
		"kernel/drivers/gpu/x.ko.xz":              false,
		"kernel/fs/nfs_common/grace.ko.xz":        true,
		"kernel/fs/nfsx/x.ko":                     false,
		"kernel/drivers/block/virtio_blk.ko.xz":   true,
		"kernel/drivers/block/virtio_blk2.ko.xz":  false,
		"kernel/fs/smb/client/cifs.ko.xz":         false,
		"kernel/drivers/net/netdevsim/x/y.ko.xz":  true,
		"kernel/drivers/net/netdevsimilar.ko.xz":  false,
		"kernel/arch/x86/crypto/aesni-intel.ko":   true,
		"kernel/arch/x86/kvm/kvm.ko.xz":           false,
		"kernel/drivers/virtio/virtio_mmio.ko.xz": true,
	} {
		if got := keptModule(file, keptModules); got != want {
			t.Errorf("%s: kept is %t, want %t", file, got, want)
		}
	}
}

// TestCPIO compares with what cpio(1) writes for the same tree, spelt out.
func TestCPIO(t *testing.T) {
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.dir("d")
	c.file("d/f", 0o755, []byte("hello"))
	c.char("n", 0o666, 1, 3)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	zero := "00000000"
	header := func(ino, mode, nlink, size, major, minor, namesize string) string {
		return "070701" + ino + mode + zero + zero + nlink + zero + size + zero + zero + major + minor + namesize + zero
	}
	one := "00000001"
	want := header(one, "000041ED", one, zero, zero, zero, "00000002") + "d\x00" +
		header("00000002", "000081ED", one, "00000005", zero, zero, "00000004") + "d/f\x00" + "\x00\x00" + "hello\x00\x00\x00" +
		header("00000003", "000021B6", one, zero, one, "00000003", "00000002") + "n\x00" +
		header(zero, zero, one, zero, zero, zero, "0000000B") + "TRAILER!!!\x00" + "\x00\x00\x00"
	if got := b.String(); got != want {
		t.Errorf("archive is\n%q, want\n%q", got, want)
	}
	c = &cpioWriter{w: failingWriter{}}
	c.dir("d")
	if err := c.close(); !errors.Is(err, errFull) {
		t.Errorf("error is %v, want %v", err, errFull)
	}
}

type failingWriter struct{}

var errFull = errors.New("full")

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func TestCacheVersion(t *testing.T) {
	version := cacheVersion()
	if version != cacheVersion() {
		t.Fatal("differs from call to call")
	}
	saved := kernels
	defer func() { kernels = saved }()
	kernels = slices.Clone(kernels)
	kernels[0].Suites = []string{"another"}
	if version == cacheVersion() {
		t.Error("does not change with the recipe")
	}
}

func TestCache(t *testing.T) {
	for _, tt := range []struct{ rpctls, xdg, want string }{
		{"/a", "/b", "/a"},
		{"", "/b", "/b/rpctls"},
		{"", "", "/home/x/.cache/rpctls"},
	} {
		t.Setenv("HOME", "/home/x")
		t.Setenv("RPCTLS_CACHE", tt.rpctls)
		t.Setenv("XDG_CACHE_HOME", tt.xdg)
		got, err := Cache()
		if err != nil || got != tt.want {
			t.Errorf("cache is %q, %v, want %q", got, err, tt.want)
		}
	}
}

func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), file, nil)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = lock(ctx, file, func(format string, args ...any) { said.WriteString(format) })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v, want %v", err, context.DeadlineExceeded)
	}
	if want := "cache: waiting for another process that builds"; said.String() != want {
		t.Errorf("said %q, want %q", said.String(), want)
	}
	unlock()
	unlock, err = lock(t.Context(), file, nil)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestScratchDir(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	stale, other := filepath.Join(tmp, "rpctls-vm-stale"), filepath.Join(tmp, "rpctls-vm-other")
	for _, d := range []string{stale, other} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(stale, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first, removeFirst, err := scratchDir()
	if err != nil {
		t.Fatal(err)
	}
	second, removeSecond, err := scratchDir()
	if err != nil {
		t.Fatal(err)
	}
	exists := func(name string) bool { _, err := os.Stat(name); return err == nil }
	if exists(stale) {
		t.Error("what a dead process left is still there")
	}
	if !exists(other) || !exists(first) || !exists(second) {
		t.Error("a directory is gone that may be in use")
	}
	removeFirst()
	removeSecond()
	if exists(first) || exists(second) {
		t.Error("a directory was not removed")
	}
}
