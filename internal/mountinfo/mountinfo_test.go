// SPDX-License-Identifier: BSD-3-Clause

package mountinfo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Names may hold white space that is none for the kernel.
const (
	oddName  = "/mnt/a\u0085b\u2003c\u00a0\r\v\f"
	odd      = "55 22 0:56 / " + oddName + " rw,relatime - nfs4 nfs.example.com:/a\u00a0b rw,vers=4.2,xprtsec=tls,addr=10.0.0.1"
	oddBelow = "57 55 0:58 / " + oddName + "/deeper rw,relatime - tmpfs none rw"
)

// As Linux 7.2 prints it.
const table = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw
50 22 0:50 / /mnt/a\040b rw,relatime shared:2 - nfs4 nfs.example.com:/export rw,vers=4.2,proto=tcp,xprtsec=mtls,cert_serial=<redacted>,privkey_serial=<redacted>,addr=10.0.0.1
51 22 0:51 / /mnt2 rw,relatime shared:3 - nfs [2001:db8::1]:/a\040b rw,vers=3,addr=2001:db8::1,xprtsec=tls
52 22 0:52 / /trap rw - fuse nfs.trap:/ rw,addr=10.9.9.9,xprtsec=tls
53 22 0:53 / /trap2 rw,relatime - tmpfs - rw
54 22 0:54 / /clear rw,relatime - nfs4 clear.example.com:/ rw,vers=4.2,port=20490,addr=10.0.0.3
` + odd + `
56 54 0:57 / /clear rw,relatime - tmpfs none rw
` + oddBelow + `
x 22 0:55 / /none rw,relatime - nfs4 none.example.com:/ rw
`

func TestParse(t *testing.T) {
	got, err := Parse(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{50, "0:50", "/mnt/a b", "nfs.example.com:/export", "nfs.example.com", "10.0.0.1", Mutual, true, false, 0, 22},
		{51, "0:51", "/mnt2", "[2001:db8::1]:/a b", "2001:db8::1", "2001:db8::1", TLS, false, false, 0, 22},
		{54, "0:54", "/clear", "clear.example.com:/", "clear.example.com", "10.0.0.3", None, false, true, 20490, 22},
		{55, "0:56", oddName, "nfs.example.com:/a\u00a0b", "nfs.example.com", "10.0.0.1", TLS, false, false, 0, 22},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Mount{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHostOf(t *testing.T) {
	for source, want := range map[string]string{
		"nfs.example.com:/x": "nfs.example.com", "nfs:x": "nfs", "[fe80::1%eth0]:/": "fe80::1%eth0",
		"a,b:/x": "a", "/dev/sda": "", "": "", "[::1": "::1",
	} {
		if got := HostOf(source); got != want {
			t.Errorf("%q: %q, want %q", source, got, want)
		}
	}
}

// Any text is read without more mounts than lines, each with a place.
func FuzzParse(f *testing.F) {
	f.Add(table)
	f.Add(`1 1 0:0 / / - nfs \0409:/ \`)
	f.Fuzz(func(t *testing.T, s string) {
		found, _ := Parse(strings.NewReader(s))
		if len(found) > strings.Count(s, "\n")+1 {
			t.Errorf("%d mounts", len(found))
		}
		for _, m := range found {
			if m.XprtSec == None && m.TLS() || strings.Contains(m.Host, ":") && !strings.HasPrefix(m.Source, "[") {
				t.Errorf("%+v", m)
			}
		}
	})
}
