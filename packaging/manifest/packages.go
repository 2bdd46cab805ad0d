// SPDX-License-Identifier: BSD-3-Clause

package manifest

import (
	"io/fs"
	"path"
)

// Programs are the Go programs, in cmd/.
var Programs = []string{"rpctlscd", "rpctlssd", "rpctlsctl", "mount.nfstls"}

// commands are the scripts of packaging/scripts that users call.
var commands = []string{"rpctls-server-setup", "rpctls-client-setup", "rpctls-cert-renew"}

// Units are those of packaging/systemd.
var Units = []string{"rpctlscd.service", "rpctlssd.service", "rpctls-cert-renew.service", "rpctls-cert-renew.timer", "rpctls-exporter.service"}

// Monitoring are the files of packaging/monitoring.
var Monitoring = []string{"rpctls-alerts.yml", "rpctls-dashboard.json"}

// Manuals are the pages of packaging/man.
var Manuals = []string{
	"rpctlscd.8", "rpctlssd.8", "rpctlsctl.8", "mount.nfstls.8", "umount.nfstls.8",
	"rpctls-server-setup.8", "rpctls-client-setup.8", "rpctls-cert-renew.8",
	"rpctlscd.toml.5", "rpctlssd.toml.5", "rpctls.7",
}

// Packages are the packages.
var Packages = []Package{rpctls(), mount()}

func rpctls() Package {
	p := Package{
		Name: "rpctls", File: "rpctls", Section: "net",
		Summary: "NFS over TLS: the kernel's handshakes for client and server",
		Description: `When Linux' NFS client or server wants TLS on a connection (RFC 9289), it
asks user space for the handshake. rpctlscd answers for the client, rpctlssd
for the server; the data path stays the kernel's, and mounts outlive the
daemons.
.
Setting up a server is one command, and so is a client: rpctls-server-setup(8)
and rpctls-client-setup. rpctlsctl is a small certificate authority, or asks
the one that is there. Nothing runs before one of them has been used.`,
		Relations: map[Format]Relations{
			Deb: {
				Depends:    []string{"systemd | systemd-standalone-sysusers | systemd-sysusers", "systemd | systemd-standalone-tmpfiles | systemd-tmpfiles"},
				Recommends: []string{"nfs-common | nfs-kernel-server", "kmod", "rpctls-mount"},
				Suggests:   []string{"bash-completion"},
			},
			RPM: {Depends: []string{"systemd"}, Recommends: []string{"nfs-utils", "kmod"}},
		},
		Scripts: map[Format]Scripts{
			Deb: {PostInstall: "packaging/deb/rpctls.postinst", PreRemove: "packaging/deb/rpctls.prerm", PostRemove: "packaging/deb/rpctls.postrm"},
			RPM: {PostInstall: "packaging/rpm/rpctls.post", PreRemove: "packaging/rpm/rpctls.preun", PostRemove: "packaging/rpm/rpctls.postun"},
		},
	}
	for _, name := range Programs {
		p.Files = append(p.Files, File{Path: "/usr/sbin/" + name, Mode: 0o755, Source: Program, From: name})
	}
	p.Files = append(p.Files, link("/usr/sbin/umount.nfstls", "mount.nfstls"))
	for _, name := range commands {
		p.Files = append(p.Files, File{Path: "/usr/sbin/" + name, Mode: 0o755, From: "packaging/scripts/" + name})
	}
	p.Files = append(p.Files, data("/usr/share/rpctls/rpctls-setup-lib.sh", "packaging/scripts/rpctls-setup-lib.sh"))
	p.Files = append(p.Files, data("/usr/share/rpctls/namespaces.conf", "packaging/systemd/namespaces.conf"))
	for _, name := range Units {
		p.Files = append(p.Files, data("/usr/lib/systemd/system/"+name, "packaging/systemd/"+name))
	}
	p.Files = append(p.Files,
		data("/usr/lib/systemd/system-preset/50-rpctls.preset", "packaging/systemd/rpctls.preset"),
		data("/usr/lib/sysusers.d/rpctls.conf", "packaging/systemd/rpctls.sysusers"),
		data("/usr/lib/tmpfiles.d/rpctls.conf", "packaging/systemd/rpctls.tmpfiles"),
		data("/usr/lib/modules-load.d/rpctls.conf", "packaging/systemd/rpctls.modules-load"),
		data("/usr/lib/systemd/catalog/rpctls.catalog", "packaging/systemd/rpctls.catalog"),
		directory("/etc/rpctls"),
		directory("/etc/rpctls/rpctlscd.d"),
		directory("/etc/rpctls/rpctlssd.d"),
		config("/etc/rpctls/rpctlscd.toml", "packaging/config/rpctlscd.toml"),
		config("/etc/rpctls/rpctlssd.toml", "packaging/config/rpctlssd.toml"),
		completion("bash", "/usr/share/bash-completion/completions/rpctlsctl", ""),
		completion("zsh", "/usr/share/zsh/vendor-completions/_rpctlsctl", Deb),
		completion("zsh", "/usr/share/zsh/site-functions/_rpctlsctl", RPM),
		completion("zsh", "/usr/share/zsh/site-functions/_rpctlsctl", Tar),
		completion("fish", "/usr/share/fish/vendor_completions.d/rpctlsctl.fish", ""),
	)
	for _, name := range Manuals {
		section := path.Ext(name)[1:]
		p.Files = append(p.Files, File{
			Path: "/usr/share/man/man" + section + "/" + name + ".gz", Mode: 0o644,
			Source: Manual, From: "packaging/man/" + name,
		})
	}
	for _, name := range []string{"setup.md", "mount.md", "certificates.md", "operation.md", "packaging.md", "reasons.md", "json.md"} {
		p.Files = append(p.Files, data("/usr/share/doc/rpctls/"+name, "docs/"+name))
	}
	p.Files = append(p.Files, data("/usr/share/doc/rpctls/README.md", "README.md"))
	for _, name := range Monitoring {
		p.Files = append(p.Files, data("/usr/share/rpctls/monitoring/"+name, "packaging/monitoring/"+name))
	}
	p.Files = append(p.Files, papers(p.Name)...)
	p.Files = append(p.Files, File{Path: "/usr/share/lintian/overrides/rpctls", Mode: 0o644, From: "packaging/deb/rpctls.lintian-overrides", Only: Deb})
	return p
}

func mount() Package {
	p := Package{
		Name: "rpctls-mount", File: "rpctls_mount", Section: "net",
		Summary: "NFS over TLS: mount -o tls, as typed",
		Description: `Puts mount.nfstls, of the package rpctls, in front of mount.nfs, so that
"mount -o tls server:/export /mnt" works as it is typed, with reasons when it
does not. Mounts without an option of TLS pass through untouched.
.
Without this package "mount -t nfstls" does the same.`,
		Relations: map[Format]Relations{
			Deb: {Depends: []string{"rpctls (= " + Version + ")", "nfs-common"}},
			RPM: {Depends: []string{"rpctls = " + Version + "-1", "nfs-utils"}},
		},
		Scripts: map[Format]Scripts{
			Deb: {PostInstall: "packaging/deb/rpctls-mount.postinst", PreRemove: "packaging/deb/rpctls-mount.prerm", PostRemove: "packaging/deb/rpctls-mount.postrm"},
			RPM: {PostInstall: "packaging/rpm/rpctls-mount.post", PreRemove: "packaging/rpm/rpctls-mount.preun"},
		},
	}
	p.Files = append(p.Files, data("/usr/lib/dracut/dracut.conf.d/50-rpctls-mount.conf", "packaging/dracut/rpctls-mount.conf"))
	// dpkg diverts; rpm does not.
	for _, f := range []File{
		{Path: "/usr/libexec/rpctls/mount-switch", Mode: 0o755, From: "packaging/rpm/mount-switch"},
		data("/usr/lib/systemd/system/rpctls-mount.path", "packaging/rpm/rpctls-mount.path"),
		data("/usr/lib/systemd/system/rpctls-mount.service", "packaging/rpm/rpctls-mount.service"),
		data("/usr/lib/systemd/system-preset/50-rpctls-mount.preset", "packaging/rpm/rpctls-mount.preset"),
	} {
		f.Only = RPM
		p.Files = append(p.Files, f)
	}
	// When nfs-common moves its helper between /sbin and /usr/sbin, so does the
	// diversion. dpkg names files as they are after diversion.
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		for _, suffix := range []string{"", ".rpctls-real", ".rpctls-real.usr-is-merged"} {
			p.Interest = append(p.Interest, dir+"/mount.nfs"+suffix)
		}
	}
	p.Files = append(p.Files, papers(p.Name)...)
	return p
}

// papers are what a package's directory of documentation must have.
func papers(name string) []File {
	dir := "/usr/share/doc/" + name
	return []File{
		{Path: dir + "/copyright", Mode: 0o644, Source: Copyright},
		{Path: dir + "/changelog.gz", Mode: 0o644, Source: Changelog, Only: Deb},
		{Path: dir + "/CHANGELOG.md.gz", Mode: 0o644, Source: News},
	}
}

func data(path, from string) File { return File{Path: path, Mode: 0o644, From: from} }

func config(path, from string) File {
	return File{Path: path, Mode: 0o644, From: from, Config: true}
}

func directory(path string) File { return File{Path: path, Mode: fs.ModeDir | 0o755, Source: None} }

func link(path, target string) File {
	return File{Path: path, Mode: fs.ModeSymlink | 0o777, Source: None, Target: target}
}

func completion(shell, path string, only Format) File {
	return File{Path: path, Mode: 0o644, Source: Completion, From: shell, Only: only}
}
