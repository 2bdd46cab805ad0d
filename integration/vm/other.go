// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// An otherKernel is one beside the matrix, for what is about kernels and not
// about NFS. It boots with the root of the matrix and brings its few modules
// along in the payload, so that images that exist stay as they are, and a suite
// that Debian takes away fails nobody but those who ask for that kernel.
type otherKernel struct {
	kernelSpec
	// Early are modules that must be there before the root is, besides
	// initModules.
	Early []string
}

// otherKernels are the oldest that Debian has, which has no kernel TLS, the oldest
// that has it, and the newest.
var otherKernels = []otherKernel{
	{
		kernelSpec: kernelSpec{
			Key:     "5.10",
			Suites:  []string{"bullseye", "bullseye-security"},
			Package: `^linux-image-5\.10\.0-[0-9]+-cloud-amd64$`,
		},
		// The checksums of ext4; later kernels have them built in.
		Early: []string{"crc32c_generic"},
	},
	{
		kernelSpec: kernelSpec{
			Key:     "6.1",
			Suites:  []string{"bookworm", "bookworm-security"},
			Package: `^linux-image-6\.1\.0-[0-9]+-cloud-amd64$`,
		},
		Early: []string{"crc32c_generic"},
	},
	{
		kernelSpec: kernelSpec{
			Key:     "7.3",
			Suites:  []string{"sid", "trixie-backports", "experimental"},
			Package: `^linux-image-7\.3(\.[^-]*)?-cloud-amd64$`,
		},
	},
}

// otherModules are the modules that guests with these kernels have.
var otherModules = []string{
	"kernel/arch/x86/crypto", "kernel/crypto", "kernel/lib",
	"kernel/net/tls", "kernel/net/ipv4", "kernel/net/mptcp",
	"kernel/fs/ext4", "kernel/fs/jbd2", "kernel/fs/mbcache.ko", "kernel/fs/fuse",
	"kernel/drivers/block/virtio_blk.ko", "kernel/drivers/char/virtio_console.ko",
	"kernel/drivers/char/hw_random", "kernel/drivers/virtio",
}

// OtherKernels returns the keys of the kernels beside the matrix, oldest first.
// [Run] boots them as well.
func OtherKernels() []string {
	var keys []string
	for _, k := range otherKernels {
		keys = append(keys, k.Key)
	}
	return keys
}

// known returns an error if no kernel has that key.
func known(key string) error {
	if keys := slices.Concat(Kernels(), OtherKernels()); !slices.Contains(keys, key) {
		return fmt.Errorf("vm: no kernel %q, only %s", key, strings.Join(keys, ", "))
	}
	return nil
}

// modulesDir is where the cache has an other kernel's modules.
const modulesDir = "modules"

// PrepareOther makes sure that the cache has a kernel beside the matrix. Like
// [Prepare] it may be called by many processes at once; it takes half a minute
// when it has to fetch something.
func PrepareOther(ctx context.Context, key string, logf Logf) (Kernel, error) {
	i := slices.IndexFunc(otherKernels, func(k otherKernel) bool { return k.Key == key })
	if i < 0 {
		return Kernel{}, fmt.Errorf("vm: no kernel %q beside the matrix", key)
	}
	spec := otherKernels[i]
	cache, err := Cache()
	if err != nil {
		return Kernel{}, fmt.Errorf("vm: %w", err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("vm: %w", err)
	}
	dir := filepath.Join(cache, "kernel-"+spec.Key+"-"+spec.version())
	if images, err := load(dir); err == nil {
		return images.Kernels[key], nil
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"), logf)
	if err != nil {
		return Kernel{}, fmt.Errorf("vm: %w", err)
	}
	defer unlock()
	if images, err := load(dir); err == nil {
		return images.Kernels[key], nil // built while we waited
	}
	tools := append(slices.Clone(buildTools), struct{ file, pkg string }{"depmod", "kmod"})
	if err := install(ctx, logf, missing(tools)); err != nil {
		return Kernel{}, fmt.Errorf("vm: %w", err)
	}
	err = buildInto(cache, dir, func(work, out string) (*Images, error) {
		b := &builder{logf: logf, work: work, out: out}
		return b.buildOther(ctx, spec)
	})
	if err != nil {
		return Kernel{}, fmt.Errorf("vm: kernel %s: %w", key, err)
	}
	images, err := load(dir)
	if err != nil {
		return Kernel{}, fmt.Errorf("vm: kernel just built: %w", err)
	}
	return images.Kernels[key], nil
}

// version names what comes out for the kernel, as cacheVersion does.
func (k otherKernel) version() string {
	text, err := json.Marshal([]any{recipeRevision, k, initModules, otherModules})
	if err != nil {
		panic("vm: recipe: " + err.Error()) // plain data
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:16]
}

func (b *builder) buildOther(ctx context.Context, spec otherKernel) (*Images, error) {
	if err := b.init(ctx); err != nil {
		return nil, err
	}
	k, err := b.kernel(ctx, spec.kernelSpec, otherModules)
	if err != nil {
		return nil, err
	}
	// depmod looks into lib, and later versions of it into usr/lib.
	base := filepath.Join(b.work, "base")
	if err := os.MkdirAll(filepath.Join(base, "usr/lib/modules"), 0o755); err != nil {
		return nil, err
	}
	if err := os.Symlink("usr/lib", filepath.Join(base, "lib")); err != nil {
		return nil, err
	}
	dir := filepath.Join(base, "usr/lib/modules", k.Release)
	if err := os.Rename(k.modules, dir); err != nil {
		return nil, err
	}
	if _, err := output(ctx, "", depmod(), "-b", base, k.Release); err != nil {
		return nil, err
	}
	if err := b.writeModules(dir, k, slices.Concat(spec.Early, initModules)); err != nil {
		return nil, err
	}
	k.Modules = path.Join(modulesDir, k.Release)
	if err := os.Mkdir(filepath.Join(b.out, modulesDir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(dir, filepath.Join(b.out, k.Modules)); err != nil {
		return nil, err
	}
	return &Images{Kernels: map[string]Kernel{spec.Key: k.Kernel}}, nil
}

// depmod returns the tool's path, which a user's PATH may lack.
func depmod() string {
	const file = "/usr/sbin/depmod"
	if _, err := os.Stat(file); err == nil {
		return file
	}
	return "depmod"
}

// chosenKernel returns the images to boot a kernel with, and what of it must
// travel in the payload.
func chosenKernel(ctx context.Context, key string, logf Logf) (*Images, Kernel, map[string]Source, error) {
	if err := known(key); err != nil {
		return nil, Kernel{}, nil, err
	}
	images, err := Prepare(ctx, logf)
	if err != nil {
		return nil, Kernel{}, nil, err
	}
	if kernel, ok := images.Kernels[key]; ok {
		return images, kernel, nil, nil
	}
	kernel, err := PrepareOther(ctx, key, logf)
	if err != nil {
		return nil, Kernel{}, nil, err
	}
	if kernel.Modules == "" {
		return nil, Kernel{}, nil, errors.New("vm: kernel " + key + " has no modules in the cache")
	}
	return images, kernel, map[string]Source{"/usr/lib/modules/" + kernel.Release: {Path: kernel.Modules}}, nil
}

// with returns a payload with more in it.
func with(payload, more map[string]Source) map[string]Source {
	if len(more) == 0 {
		return payload
	}
	all := maps.Clone(more)
	maps.Copy(all, payload)
	return all
}
