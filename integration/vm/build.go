// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A builder makes the images: work is its scratch space, out gets the result.
type builder struct {
	logf      Logf
	work, out string
	mirror    mirror

	mu    sync.Mutex
	trees map[string]func() (*aptTree, error) // by suite, each made once
}

// An unpackedKernel is a kernel's packages, unpacked.
type unpackedKernel struct {
	Kernel
	key     string
	modules string // directory with "kernel" and the lists beside it
}

// init finds where packages come from.
func (b *builder) init(ctx context.Context) (err error) {
	b.trees = make(map[string]func() (*aptTree, error))
	b.mirror, err = b.findMirror(ctx)
	return err
}

func (b *builder) build(ctx context.Context) (*Images, error) {
	if err := b.init(ctx); err != nil {
		return nil, err
	}
	root := filepath.Join(b.work, "root")
	unpacked := make([]*unpackedKernel, len(kernels))
	old := make([]string, len(oldPackages))

	// Everything that waits for the network, at once.
	jobs := []func(context.Context) error{
		func(ctx context.Context) error { return b.bootstrap(ctx, root) },
		b.emulator,
	}
	for i, spec := range kernels {
		jobs = append(jobs, func(ctx context.Context) (err error) {
			unpacked[i], err = b.kernel(ctx, spec, keptModules)
			return err
		})
	}
	for i, p := range oldPackages {
		jobs = append(jobs, func(ctx context.Context) (err error) {
			old[i], err = b.oldPackage(ctx, p)
			return err
		})
	}
	if err := parallel(ctx, jobs...); err != nil {
		return nil, err
	}

	images := &Images{Root: "root.img", Emulator: emulatorDir, Kernels: make(map[string]Kernel)}
	for i, p := range oldPackages {
		if err := b.placeOld(ctx, root, p, old[i]); err != nil {
			return nil, err
		}
	}
	for _, k := range unpacked {
		if err := b.placeKernel(ctx, root, k); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.key, err)
		}
		images.Kernels[k.key] = k.Kernel
	}
	if err := configure(root); err != nil {
		return nil, err
	}
	defer b.logf.step("root disk")()
	// No journal: nothing that is written outlives the guest.
	_, err := output(ctx, b.out, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1",
		"-m", "0", "-L", "root", "-d", root, images.Root, rootSize)
	return images, err
}

// parallel runs the jobs at once; the first error ends the others.
func parallel(ctx context.Context, jobs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, job := range jobs {
		wg.Go(func() {
			if err := job(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// findMirror reads apt's sources. On a machine that has never fetched its
// lists, as in a fresh container, apt does not know the archives' labels.
func (b *builder) findMirror(ctx context.Context) (mirror, error) {
	m, err := findMirror(ctx)
	if err == nil {
		return m, nil
	}
	if _, err := output(ctx, "", "apt-get", "-q", "update"); err != nil {
		return mirror{}, err
	}
	return findMirror(ctx)
}

// tree returns the private apt of a suite.
func (b *builder) tree(ctx context.Context, suite string) (*aptTree, error) {
	b.mu.Lock()
	get, ok := b.trees[suite]
	if !ok {
		get = sync.OnceValues(func() (*aptTree, error) {
			return newAptTree(ctx, b.mirror, filepath.Join(b.work, "apt-"+suite), suite)
		})
		b.trees[suite] = get
	}
	b.mu.Unlock()
	return get()
}

func (b *builder) bootstrap(ctx context.Context, root string) error {
	defer b.logf.step("debootstrap %s", rootSuite)()
	cmd := command(ctx, "debootstrap", "--arch=amd64", "--variant=minbase", "--keyring="+keyring,
		"--include="+strings.Join(rootPackages, ","), rootSuite, root, b.mirror.main)
	// In a mount namespace of its own, so that what it mounts in the root
	// cannot stay mounted when it is killed.
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if b.mirror.proxy != "" {
		cmd.Env = append(cmd.Env, "http_proxy="+b.mirror.proxy)
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := run(cmd, nil); err != nil {
		if text, err := os.ReadFile(filepath.Join(root, "debootstrap/debootstrap.log")); err == nil {
			said.Write(text)
		}
		return commandError(ctx, cmd, err, said.String())
	}
	for _, p := range prunedRoot {
		if err := os.RemoveAll(filepath.Join(root, p)); err != nil {
			return err
		}
	}
	return nil
}

const emulatorDir = "qemu"

// emulator puts QEMU and its libraries into the images' directory.
func (b *builder) emulator(ctx context.Context) error {
	defer b.logf.step("fetching %s of %s", emulatorPackage, emulatorSuite)()
	tree, err := b.tree(ctx, emulatorSuite)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.out, emulatorDir)
	if err := tree.downloadAll(ctx, dir, emulatorPackage); err != nil {
		return err
	}
	for _, p := range prunedEmulator {
		if err := os.RemoveAll(filepath.Join(dir, p)); err != nil {
			return err
		}
	}
	_, err = output(ctx, "", emulatorLoader(dir), emulatorArgs(dir, "--version")...)
	return err
}

// kernel finds, fetches and unpacks one kernel, with those modules that are to be kept.
func (b *builder) kernel(ctx context.Context, spec kernelSpec, kept []string) (*unpackedKernel, error) {
	start := time.Now()
	var candidates []debPackage
	var suiteErrors []error
	for _, suite := range spec.Suites {
		packages, err := b.kernelCandidates(ctx, suite)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			// Suites come and go; another one may do.
			suiteErrors = append(suiteErrors, fmt.Errorf("suite %s: %w", suite, err))
			continue
		}
		candidates = append(candidates, packages...)
	}
	chosen, err := chooseKernel(spec, candidates)
	if err != nil {
		return nil, errors.Join(append([]error{err}, suiteErrors...)...)
	}
	tree, err := b.tree(ctx, chosen.Suite)
	if err != nil {
		return nil, err
	}
	// The version may be in several suites, the parts must be its own.
	names := []string{chosen.Name + "=" + chosen.Version}
	for _, part := range kernelParts(chosen) {
		names = append(names, part+"="+chosen.Version)
	}
	dir := filepath.Join(b.work, "kernel-"+spec.Key)
	if err := tree.download(ctx, dir, names...); err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "modules", "*", "kernel"))
	if err == nil && len(found) == 0 {
		found, err = filepath.Glob(filepath.Join(dir, "usr", "*", "modules", "*", "kernel"))
	}
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("kernel %s: %d module trees in %s", spec.Key, len(found), strings.Join(names, " "))
	}
	k := &unpackedKernel{key: spec.Key, modules: filepath.Dir(found[0])}
	k.Release = filepath.Base(k.modules)
	k.Package = fmt.Sprintf("%s %s (%s)", chosen.Name, chosen.Version, chosen.Suite)
	k.Image, k.Initrd = "vmlinuz-"+spec.Key, "initrd-"+spec.Key
	err = os.Rename(filepath.Join(dir, "boot", "vmlinuz-"+k.Release), filepath.Join(b.out, k.Image))
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(filepath.Join(k.modules, "vmlinuz"), filepath.Join(b.out, k.Image))
	}
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", spec.Key, err)
	}
	if err := trimModules(ctx, k.modules, kept); err != nil {
		return nil, fmt.Errorf("kernel %s: %w", spec.Key, err)
	}
	b.logf.printf("cache: kernel %s is %s (%.0fs)", spec.Key, k.Package, time.Since(start).Seconds())
	return k, nil
}

func (b *builder) kernelCandidates(ctx context.Context, suite string) ([]debPackage, error) {
	tree, err := b.tree(ctx, suite)
	if err != nil {
		return nil, err
	}
	names, err := tree.names(ctx, "linux-image-")
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, "-cloud-amd64") })
	return tree.show(ctx, names...)
}

// trimModules removes what no guest needs, and unpacks the rest: under TCG the
// guest would pay dearly for doing that.
func trimModules(ctx context.Context, dir string, kept []string) error {
	var compressed []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		switch {
		case !strings.HasPrefix(rel, "kernel/"):
			// The lists depmod needs begin so; map and configuration do not.
			if !strings.HasPrefix(rel, "modules.") {
				return os.Remove(name)
			}
		case !keptModule(rel, kept):
			return os.Remove(name)
		case strings.HasSuffix(rel, ".xz"):
			compressed = append(compressed, name)
		}
		return nil
	})
	if err != nil || len(compressed) == 0 {
		return err
	}
	_, err = output(ctx, dir, "xz", append([]string{"-d", fmt.Sprintf("-T%d", runtime.NumCPU()), "--"}, compressed...)...)
	return err
}

// keptModule reports whether a file below the module directory is kept, its
// suffix for compression aside.
func keptModule(rel string, kept []string) bool {
	rel = strings.TrimSuffix(rel, ".xz")
	for _, k := range kept {
		if rel == k || strings.HasPrefix(rel, k+"/") {
			return true
		}
	}
	return false
}

// placeKernel puts the modules into the root.
func (b *builder) placeKernel(ctx context.Context, root string, k *unpackedKernel) error {
	if err := os.MkdirAll(filepath.Join(root, "usr/lib/modules"), 0o755); err != nil {
		return err
	}
	dir := filepath.Join(root, "usr/lib/modules", k.Release)
	if err := os.Rename(k.modules, dir); err != nil {
		return err
	}
	if _, err := output(ctx, "", "chroot", root, "/usr/sbin/depmod", k.Release); err != nil {
		return err
	}
	return b.writeModules(dir, k, initModules)
}

// writeModules writes the archive of the modules in dir that are needed before
// there is a root.
func (b *builder) writeModules(dir string, k *unpackedKernel, names []string) error {
	var lists [2]string
	for i, name := range []string{"modules.dep", "modules.builtin"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		lists[i] = string(text)
	}
	order, err := loadOrder(names, lists[0], lists[1])
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	c := &cpioWriter{w: &archive}
	c.dir("modules")
	for i, rel := range order {
		module, err := os.ReadFile(filepath.Join(dir, rel))
		if err != nil {
			return err
		}
		c.file(fmt.Sprintf("modules/%02d-%s", i, path.Base(rel)), 0o644, module)
	}
	if err := c.close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, k.Initrd), archive.Bytes(), 0o644)
}

// loadOrder returns the module files to load for the named modules, each
// after those it depends on. The texts are modules.dep and modules.builtin.
func loadOrder(names []string, dep, builtin string) ([]string, error) {
	canonical := func(file string) string {
		name, _, _ := strings.Cut(path.Base(file), ".")
		return strings.ReplaceAll(name, "-", "_")
	}
	inKernel := make(map[string]bool)
	for _, file := range strings.Fields(builtin) {
		inKernel[canonical(file)] = true
	}
	needs := make(map[string][]string) // by name: dependencies in the order depmod gives, then the file
	for line := range strings.Lines(dep) {
		file, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		needs[canonical(file)] = append(strings.Fields(rest), file)
	}
	var order []string
	for _, name := range names {
		files, ok := needs[name]
		if !ok && !inKernel[name] {
			return nil, fmt.Errorf("has no module %q, neither built in", name)
		}
		if !ok {
			continue
		}
		// depmod lists what is needed first last.
		deps := slices.Clone(files[:len(files)-1])
		slices.Reverse(deps)
		for _, file := range append(deps, files[len(files)-1]) {
			if !slices.Contains(order, file) {
				order = append(order, file)
			}
		}
	}
	return order, nil
}

// oldPackage fetches and unpacks a second version of a package.
func (b *builder) oldPackage(ctx context.Context, p oldPackage) (string, error) {
	tree, err := b.tree(ctx, p.Suite)
	if err != nil {
		return "", err
	}
	versions, err := tree.show(ctx, p.Name)
	if err != nil {
		return "", err
	}
	var best debPackage
	for _, v := range versions {
		if _, upstream, _ := splitVersion(v.Version); upstream == p.Upstream && compareVersions(v.Version, best.Version) > 0 {
			best = v
		}
	}
	if best.Name == "" {
		return "", fmt.Errorf("package %s in recipe.go: suite %s has no version %s of it", p.Name, p.Suite, p.Upstream)
	}
	dir := filepath.Join(b.work, p.Name)
	return dir, tree.download(ctx, dir, best.Name+"="+best.Version)
}

// placeOld puts a second version into /opt and checks that it finds its
// libraries among those of the root.
func (b *builder) placeOld(ctx context.Context, root string, p oldPackage, dir string) error {
	opt := filepath.Join("opt", p.Name+"-"+p.Upstream)
	if err := os.MkdirAll(filepath.Join(root, "opt"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(root, opt)); err != nil {
		return err
	}
	binary := "/" + filepath.Join(opt, p.Binary)
	text, err := output(ctx, "", "chroot", root, "ldd", binary)
	if err != nil {
		return err
	}
	if strings.Contains(text, "not found") {
		return fmt.Errorf("%s lacks libraries in the root; add them to rootPackages in recipe.go:\n%s", binary, text)
	}
	return nil
}

// configure writes the recipe's files and masks its units.
func configure(root string) error {
	for name, text := range rootFiles {
		name = filepath.Join(root, name)
		if err := os.RemoveAll(name); err != nil { // may be a link to elsewhere
			return err
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	units := filepath.Join(root, "etc/systemd/system")
	if err := os.MkdirAll(units, 0o755); err != nil {
		return err
	}
	for _, unit := range maskedUnits {
		name := filepath.Join(units, unit)
		if err := os.RemoveAll(name); err != nil {
			return err
		}
		if err := os.Symlink("/dev/null", name); err != nil {
			return err
		}
	}
	return nil
}
