// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// recipeRevision is part of the cache's version: raise it when the code that
// builds the images changes what comes out.
const recipeRevision = 2

// A kernelSpec says where one kernel of the matrix comes from. The newest
// package of all suites whose name matches is taken.
type kernelSpec struct {
	Key     string   // what tests call it; the package must be of this version
	Suites  []string // Debian suites, all are searched
	Package string   // regular expression for the package's name
}

// kernels is the matrix. A key is a promise about the version: when a suite
// has moved on, add the new version and look for the old one elsewhere, but
// do not let a pattern match both.
var kernels = []kernelSpec{
	{
		Key:     "6.12",
		Suites:  []string{"bookworm-backports", "bookworm-security", "trixie"},
		Package: `^linux-image-6\.12\.[^-]*-cloud-amd64$`,
	},
	{
		Key:     "7.2",
		Suites:  []string{"sid"},
		Package: `^linux-image-7\.2\.[^-]*-cloud-amd64$`,
	},
}

const rootSuite = "sid"

// rootPackages are what the root file system has beyond a minimal Debian.
var rootPackages = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps", "psmisc",
	"iproute2", "iputils-ping", "tcpdump", "strace", "netcat-openbsd",
	"nfs-kernel-server", "nfs-common", "rpcbind", "keyutils",
	"ktls-utils", "openssl", "gnutls-bin", "ca-certificates",
	"promtool",
}

// An oldPackage is unpacked, not installed, below /opt/NAME-UPSTREAMVERSION:
// a second version of a peer beside the installed one.
type oldPackage struct {
	Suite, Name, Upstream string
	Binary                string // must find all its libraries in the root
}

var oldPackages = []oldPackage{
	{Suite: "trixie", Name: "ktls-utils", Upstream: "1.0.0", Binary: "usr/sbin/tlshd"},
}

// The emulator comes from here, with every library it needs, and not from the
// machine: QEMU before 10 loses a race between a processor that changes the
// kernel's code and another that translates it (the guest dies of "Oops: int3"
// when a static key is switched, as trace events and packet sockets do), and
// with all processors on one thread each stops the others for 100 ms at a time.
const (
	emulatorSuite   = "trixie"
	emulatorPackage = "qemu-system-x86"
)

// prunedEmulator is of no use to a guest of ours.
var prunedEmulator = []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "var", "etc"}

// maskedUnits do not start by themselves when systemd is PID 1.
var maskedUnits = []string{
	"nfs-server.service", "nfs-mountd.service", "nfs-idmapd.service", "nfsdcld.service",
	"nfs-blkmap.service", "rpcbind.service", "rpcbind.socket", "rpc-statd.service",
	"rpc-statd-notify.service", "rpc-gssd.service", "rpc-svcgssd.service", "tlshd.service",
	"getty@tty1.service", "serial-getty@ttyS0.service", "apt-daily.timer", "apt-daily-upgrade.timer",
	"dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
	"dev-hugepages.mount", "dev-mqueue.mount", "modprobe@configfs.service", "modprobe@efi_pstore.service",
}

// initModules must be there before the root disk is.
var initModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "ext4"}

// keptModules are the parts of a kernel's module tree that are of use in a
// guest; the rest is left out of the image.
var keptModules = []string{
	"kernel/arch/x86/crypto", "kernel/crypto", "kernel/lib", "kernel/net", "kernel/security",
	"kernel/fs/nfs", "kernel/fs/nfsd", "kernel/fs/nfs_common", "kernel/fs/lockd",
	"kernel/fs/netfs", "kernel/fs/fscache", "kernel/fs/cachefiles", "kernel/fs/nls",
	"kernel/fs/autofs", "kernel/fs/fuse", "kernel/fs/overlayfs", "kernel/fs/xfs",
	"kernel/fs/btrfs", "kernel/fs/binfmt_misc.ko",
	"kernel/drivers/block/virtio_blk.ko", "kernel/drivers/block/loop.ko", "kernel/drivers/block/brd.ko",
	"kernel/drivers/char/hw_random", "kernel/drivers/char/virtio_console.ko", "kernel/drivers/virtio",
	"kernel/drivers/crypto/virtio", "kernel/drivers/net/veth.ko", "kernel/drivers/net/dummy.ko",
	"kernel/drivers/net/ifb.ko", "kernel/drivers/net/tun.ko", "kernel/drivers/net/virtio_net.ko",
	"kernel/drivers/net/net_failover.ko", "kernel/drivers/net/netdevsim",
}

// prunedRoot is not needed in the image.
var prunedRoot = []string{
	"var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man",
	"usr/share/locale", "usr/share/info", "var/log/bootstrap.log",
}

// rootSize of the image: it is sparse, and what tests write is thrown away.
const rootSize = "4G"

// rootFiles are written over what the packages brought.
var rootFiles = map[string]string{
	"etc/hostname":      "vm\n",
	"etc/hosts":         "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 vm\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\nprotocols: files\nservices: files\nrpc: files\n",
	"etc/resolv.conf":   "",
	"etc/fstab":         "/dev/vda / ext4 defaults,noinit_itable 0 0\n",
	// Must exist and be empty: systemd makes one up at every boot.
	"etc/machine-id": "",
	"etc/exports":    "",
	// Nothing is to be updated at the first boot, which every boot is (see
	// ConditionNeedsUpdate= in systemd.unit(5)): they are younger than /usr.
	"etc/.updated": "",
	"var/.updated": "",
	// Events of all the devices that there are take most of a translated boot. Those
	// of the virtio bus have the network's driver loaded.
	"etc/systemd/system/systemd-udev-trigger.service.d/few.conf": "[Service]\nExecStart=\nExecStart=udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=virtio\n",
}

// cacheVersion names the outcome of the recipe: it changes with it.
func cacheVersion() string {
	// Maps are encoded in the order of their keys.
	text, err := json.Marshal([]any{
		recipeRevision, kernels, rootSuite, rootPackages, oldPackages, emulatorSuite, emulatorPackage, prunedEmulator, maskedUnits,
		initModules, keptModules, prunedRoot, rootSize, rootFiles,
	})
	if err != nil {
		panic("vm: recipe: " + err.Error()) // plain data
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:16]
}

// Kernels returns the keys of the matrix, oldest first.
func Kernels() []string {
	var keys []string
	for _, k := range kernels {
		keys = append(keys, k.Key)
	}
	return keys
}
