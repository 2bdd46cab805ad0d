// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

var guestInit struct {
	sync.Mutex
	binary []byte
}

// buildGuestInit compiles the guest's init, once per process. It is not part
// of the cache: it changes with this checkout.
func buildGuestInit(ctx context.Context) ([]byte, error) {
	guestInit.Lock()
	defer guestInit.Unlock()
	if guestInit.binary != nil {
		return guestInit.binary, nil
	}
	dir, err := os.MkdirTemp("", "rpctls-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "guestinit")
	cmd := command(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "rpctls/integration/cmd/guestinit")
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	// The go command must find our module, wherever the caller stands.
	if _, source, _, ok := runtime.Caller(0); ok && filepath.IsAbs(source) {
		if _, err := os.Stat(source); err == nil {
			cmd.Dir = filepath.Dir(source)
		}
	}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := run(cmd, nil); err != nil {
		return nil, commandError(ctx, cmd, err, said.String())
	}
	guestInit.binary, err = os.ReadFile(file)
	return guestInit.binary, err
}

// writeInitrd writes the initramfs of one guest: the init, and the modules
// that the cache has for its kernel.
func writeInitrd(ctx context.Context, file string, kernel Kernel) error {
	init, err := buildGuestInit(ctx)
	if err != nil {
		return err
	}
	modules, err := os.ReadFile(kernel.Initrd)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	c := &cpioWriter{w: f}
	for _, dir := range []string{"dev", "proc", "sys", "root"} {
		c.dir(dir)
	}
	// The Go runtime wants descriptors 0 to 2 to be open, or /dev/null.
	c.char("dev/console", 0o600, 5, 1)
	c.char("dev/null", 0o666, 1, 3)
	c.file("init", 0o755, init)
	if err := c.close(); err != nil {
		return err
	}
	if _, err := f.Write(modules); err != nil {
		return err
	}
	return f.Close()
}
