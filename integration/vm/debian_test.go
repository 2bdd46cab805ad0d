// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"slices"
	"strings"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	// Each is older than the next.
	ordered := []string{
		"", "1.0~~", "1.0~rc1-1", "1.0", "1.0-1~deb12u1", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0a-1", "1.0+x-1",
		"1.0.1-1", "1.9-1", "1.10-1", "6.12.95-1~bpo12+1", "6.12.95-1~deb13u1", "6.12.95-1", "6.12.117-1~deb12u1",
		"7.2.13-1", "1:0.1-1",
	}
	for i, a := range ordered {
		for j, b := range ordered {
			got := compareVersions(a, b)
			if want := compareInt(i, j); got != want {
				t.Errorf("compare %q with %q: %d, want %d", a, b, got, want)
			}
		}
	}
	if compareVersions("1.01-1", "1.1-1") != 0 {
		t.Error("leading zeros count")
	}
}

func compareInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

const stanzas = `Package: linux-image-6.12.95+deb12-cloud-amd64
Source: linux-signed-amd64 (6.12.95+1~bpo12+1)
Version: 6.12.95-1~bpo12+1
Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool
Description: Linux 6.12 for x86-64 cloud
 Version: 9 is part of the text

Package: linux-image-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1
Pre-Depends: linux-base-7.2.13+deb14-cloud-amd64:any (= 7.2.13-1)
Depends: linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1) | other, linux-modules-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)

Package: incomplete
`

func TestParsePackages(t *testing.T) {
	got := parsePackages(stanzas)
	if len(got) != 2 {
		t.Fatalf("%d packages, want 2: %+v", len(got), got)
	}
	if p := got[0]; p.Name != "linux-image-6.12.95+deb12-cloud-amd64" || p.Version != "6.12.95-1~bpo12+1" {
		t.Errorf("first is %+v", p)
	}
	if want := []string{"kmod", "linux-base", "initramfs-tools", "linux-initramfs-tool"}; !slices.Equal(got[0].Depends, want) {
		t.Errorf("dependencies are %q, want %q", got[0].Depends, want)
	}
	if parts := kernelParts(got[0]); len(parts) != 0 {
		t.Errorf("parts of the old kernel: %q", parts)
	}
	want := []string{
		"linux-base-7.2.13+deb14-cloud-amd64", "linux-binary-7.2.13+deb14-cloud-amd64",
		"linux-modules-7.2.13+deb14-cloud-amd64",
	}
	if parts := kernelParts(got[1]); !slices.Equal(parts, want) {
		t.Errorf("parts of the new kernel: %q, want %q", parts, want)
	}
}

func TestChooseKernel(t *testing.T) {
	image := func(version, debian, suite string) debPackage {
		return debPackage{Name: "linux-image-" + version + "-cloud-amd64", Version: debian, Suite: suite}
	}
	old, new, security := image("6.12.95+deb12", "6.12.95-1~bpo12+1", "bookworm-backports"),
		image("6.12.117+deb13", "6.12.117-1", "trixie"), image("6.12.117+deb12", "6.12.117-1~deb12u1", "bookworm-security")
	sid := image("7.2.13+deb14", "7.2.13-1", "sid")
	next := image("7.3.1+deb14", "7.3.1-1", "sid")
	unsigned := debPackage{Name: "linux-image-6.12.200+deb12-cloud-amd64-unsigned", Version: "6.12.200-1", Suite: "trixie"}
	meta := debPackage{Name: "linux-image-cloud-amd64", Version: "7.2.13-1", Suite: "sid"}
	for _, tt := range []struct {
		name     string
		key      string
		packages []debPackage
		want     debPackage
		err      string
	}{
		{"only one", "6.12", []debPackage{old}, old, ""},
		{"newest of several suites", "6.12", []debPackage{security, new, old}, new, ""},
		{"newest of two digits and three", "6.12", []debPackage{old, security}, security, ""},
		{"other versions beside it", "6.12", []debPackage{sid, old, unsigned, meta}, old, ""},
		{"sid", "7.2", []debPackage{meta, sid}, sid, ""},
		{"sid has moved on", "7.2", []debPackage{meta, next}, debPackage{}, `kernel "7.2" in recipe.go: no package of sid matches`},
		{"sid has moved on, and says to what", "7.2", []debPackage{next}, debPackage{}, "the newest there is linux-image-7.3.1+deb14-cloud-amd64 (sid)"},
		{"nothing", "7.2", nil, debPackage{}, "they have no kernel at all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := slices.IndexFunc(kernels, func(k kernelSpec) bool { return k.Key == tt.key })
			got, err := chooseKernel(kernels[i], tt.packages)
			checkError(t, err, tt.err)
			if got.Name != tt.want.Name || got.Suite != tt.want.Suite {
				t.Errorf("chose %+v, want %+v", got, tt.want)
			}
		})
	}
	_, err := chooseKernel(kernelSpec{Key: "6.1", Package: "^linux-image-6"}, []debPackage{old})
	checkError(t, err, "which is another version")
	_, err = chooseKernel(kernelSpec{Key: "6.1", Package: "("}, []debPackage{old})
	checkError(t, err, `kernel "6.1" in recipe.go: error parsing regexp`)
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatal(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Fatalf("error is %v, want %q in it", err, want)
	}
}

func TestChooseMirror(t *testing.T) {
	for _, tt := range []struct {
		name    string
		targets string
		want    mirror
		err     string
	}{
		{
			"lists were fetched", "http://a/security bookworm-security Debian-Security\nhttp://a/other bookworm Other\nhttp://a/debian bookworm-updates Debian\n",
			mirror{main: "http://a/debian", security: "http://a/security"}, "",
		},
		{
			"lists were not fetched", "http://a/debian trixie \nhttp://a/security trixie-security\n",
			mirror{main: "http://a/debian", security: "http://a/security"}, "",
		},
		{"no security archive", "http://a/debian stable Debian\n", mirror{main: "http://a/debian"}, ""},
		{"another distribution", "http://a/ubuntu noble Ubuntu\nhttp://a/x noble \n", mirror{}, "no Debian archive"},
		{"nothing", "", mirror{}, "no Debian archive"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := chooseMirror(parseTargets(tt.targets))
			checkError(t, err, tt.err)
			if err == nil && got != tt.want {
				t.Errorf("mirror is %+v, want %+v", got, tt.want)
			}
		})
	}
}
