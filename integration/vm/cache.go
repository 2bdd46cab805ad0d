// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Logf prints a line of progress; nil prints nothing.
type Logf func(format string, args ...any)

func (l Logf) printf(format string, args ...any) {
	if l != nil {
		l(format, args...)
	}
}

// step logs what is done, and how long it took when the returned function is
// called.
func (l Logf) step(format string, args ...any) (done func()) {
	start := time.Now()
	what := fmt.Sprintf(format, args...)
	l.printf("cache: %s ...", what)
	return func() { l.printf("cache: %s (%.0fs)", what, time.Since(start).Seconds()) }
}

// Images is what Prepare has built, or found.
type Images struct {
	Dir      string // all files are here
	Root     string // disk image
	Emulator string // directory with QEMU and its libraries
	Kernels  map[string]Kernel
}

// A Kernel is one that guests can boot.
type Kernel struct {
	Release string // as uname -r says
	Package string // Debian's name, version and suite
	Image   string // the kernel
	Initrd  string // modules that it needs to find its root; not compressed
	Modules string `json:",omitempty"` // directory with the others, unless the root has them
}

// Cache returns the directory in which images are kept: $RPCTLS_CACHE, else
// rpctls in $XDG_CACHE_HOME, else ~/.cache/rpctls.
func Cache() (string, error) {
	if dir := os.Getenv("RPCTLS_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache directory: %w (RPCTLS_CACHE can name one)", err)
	}
	return filepath.Join(dir, "rpctls"), nil
}

// buildTools are what building the images takes, and the Debian package that
// brings each. A path is a file that must exist. Running them takes nothing
// that is not among them.
var buildTools = []struct{ file, pkg string }{
	{"debootstrap", "debootstrap"},
	{"mke2fs", "e2fsprogs"},
	{"xz", "xz-utils"},
	{"wget", "wget"}, // debootstrap's
	{keyring, "debian-archive-keyring"},
}

// Prepare makes sure that this machine can boot guests: it installs missing
// packages (only that, and building the images, needs root) and builds
// kernels and root file system, unless the cache has them. It may be called
// by many processes at once.
func Prepare(ctx context.Context, logf Logf) (*Images, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("vm: guests are for linux/amd64 machines, this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	cache, err := Cache()
	if err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	dir := filepath.Join(cache, "images-"+cacheVersion())
	images, err := load(dir)
	if err == nil {
		return images, nil
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"), logf)
	if err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	defer unlock()
	if images, err = load(dir); err == nil {
		return images, nil // built while we waited
	}
	done := logf.step("building images in %s", dir)
	if err := install(ctx, logf, missing(buildTools)); err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	if err := build(ctx, logf, cache, dir); err != nil {
		return nil, fmt.Errorf("vm: build images: %w", err)
	}
	done()
	if images, err = load(dir); err != nil {
		return nil, fmt.Errorf("vm: images just built: %w", err)
	}
	return images, nil
}

const indexFile = "images.json"

// load reads the index of finished images. The index has base names: the
// cache may be moved.
func load(dir string) (*Images, error) {
	text, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		return nil, err
	}
	images := new(Images)
	if err := json.Unmarshal(text, images); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, indexFile), err)
	}
	images.Dir = dir
	images.Root = filepath.Join(dir, images.Root)
	images.Emulator = filepath.Join(dir, images.Emulator)
	for key, k := range images.Kernels {
		k.Image, k.Initrd = filepath.Join(dir, k.Image), filepath.Join(dir, k.Initrd)
		if k.Modules != "" {
			k.Modules = filepath.Join(dir, k.Modules)
		}
		images.Kernels[key] = k
	}
	return images, nil
}

// build makes the images of the matrix.
func build(ctx context.Context, logf Logf, cache, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("a root file system can be built by root only; as root, once: go run ./integration/cmd/vmrun -prepare, with the same RPCTLS_CACHE")
	}
	return buildInto(cache, dir, func(work, out string) (*Images, error) {
		return (&builder{logf: logf, work: work, out: out}).build(ctx)
	})
}

// buildInto makes images in a directory of its own and gives it the final
// name when all is there. The caller holds the lock, so every other such
// directory is the rest of a build that was interrupted.
func buildInto(cache, dir string, build func(work, out string) (*Images, error)) error {
	const prefix = ".building-"
	if rest, err := filepath.Glob(filepath.Join(cache, prefix+"*")); err == nil {
		for _, r := range rest {
			if err := os.RemoveAll(r); err != nil {
				return err
			}
		}
	}
	tmp, err := os.MkdirTemp(cache, prefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	images, err := build(tmp, out)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(images, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, indexFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // without an index: of no use
		return err
	}
	if err := syncFiles(out); err != nil {
		return err
	}
	return os.Rename(out, dir)
}

// syncFiles brings all files below a directory to the disk: they must be there
// before the directory's final name is.
func syncFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// lock takes the lock file, which the kernel releases when we die. It polls
// because a blocked flock(2) cannot be called off.
func lock(ctx context.Context, name string, logf Logf) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if !told {
			logf.printf("cache: waiting for another process that builds")
			told = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// missing returns the packages of those tools that are not there.
func missing(tools []struct{ file, pkg string }) []string {
	var packages []string
	for _, t := range tools {
		if !haveTool(t.file) && !slices.Contains(packages, t.pkg) {
			packages = append(packages, t.pkg)
		}
	}
	return packages
}

func haveTool(file string) bool {
	if strings.HasPrefix(file, "/") {
		_, err := os.Stat(file)
		return err == nil
	}
	if _, err := exec.LookPath(file); err == nil {
		return true
	}
	// A user's PATH may lack it.
	_, err := os.Stat("/usr/sbin/" + file)
	return err == nil
}

func install(ctx context.Context, logf Logf, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	list := strings.Join(packages, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("packages are missing; as root: apt-get install --no-install-recommends %s", list)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine has no apt-get; missing are Debian's packages %s, or whatever has these tools here", list)
	}
	defer logf.step("installing %s", list)()
	if _, err := output(ctx, "", "apt-get", "-q", "update"); err != nil {
		return err
	}
	_, err := output(ctx, "", "apt-get", append([]string{"-q", "install", "-y", "--no-install-recommends"}, packages...)...)
	return err
}
