// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/history"
	"rpctls/internal/netns"
	"rpctls/internal/netns/netnstest"
	"rpctls/internal/probe"
	"rpctls/internal/why"
	"rpctls/rpctlscd"
	"rpctls/rpctlssd"
)

// A fake is a host on which all is well, but for what a test changes.
type fake struct {
	now      time.Time
	names    []string
	files    map[string]string
	tls      error
	group    error
	members  []uint32
	programs map[uint32]string
	recorded map[string]uint32
	threads  int
	spaces   []Namespace
	client   func() (*Client, error)
	server   func() (*Server, error)
	running  map[string]bool
	events   []history.Event
	result   *probe.Result
	probed   []probe.Options
}

func (f *fake) Hostname() string { return "here" }
func (f *fake) Names() []string  { return f.names }
func (f *fake) Now() time.Time   { return f.now }
func (f *fake) Built() time.Time { return time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC) }
func (f *fake) Exists(path string) bool {
	_, ok := f.files[path]
	return ok
}

func (f *fake) Read(path string) ([]byte, error) {
	if text, ok := f.files[path]; ok {
		return []byte(text), nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}
func (f *fake) Release() string                  { return "7.2.0" }
func (f *fake) KernelTLS() error                 { return f.tls }
func (f *fake) Group() (uint32, error)           { return 5, f.group }
func (f *fake) Members(uint32) ([]uint32, error) { return slices.Clone(f.members), nil }
func (f *fake) Program(inode uint32) string      { return f.programs[inode] }
func (f *fake) Threads() (int, error)            { return f.threads, nil }
func (f *fake) Namespaces(uint32) ([]Namespace, error) {
	return f.spaces, nil
}
func (f *fake) Recorded(path string) []uint32 {
	if n, ok := f.recorded[filepath.Base(path)]; ok {
		return []uint32{n}
	}
	return nil
}
func (f *fake) Client(string, string) (*Client, error) { return f.client() }
func (f *fake) Server(string, string) (*Server, error) { return f.server() }
func (f *fake) Dial(_ context.Context, _, daemon string) (Talk, error) {
	if !f.running[daemon] {
		return nil, nil
	}
	return talk{f.events}, nil
}

func (f *fake) Probe(_ context.Context, o probe.Options) *probe.Result {
	f.probed = append(f.probed, o)
	return f.result
}

type talk struct{ events []history.Event }

func (t talk) Call(_ string, _, result any) error {
	result.(*history.Answer).Events = t.events
	return nil
}
func (talk) Close() error { return nil }

const clientConfig, serverConfig = "/etc/rpctls/rpctlscd.toml", "/etc/rpctls/rpctlssd.toml"

// load makes the files of both daemons with certificates that end then.
func (f *fake) load(t *testing.T, end time.Time, policy rpctlssd.ClientCertificate) {
	t.Helper()
	dir := t.TempDir()
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "CA"})
	ca.MustIssue(t, certstest.Options{CommonName: "host", DNS: []string{"host.test"}, NotBefore: end.Add(-100 * 24 * time.Hour), NotAfter: end}).MustWriteFiles(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := fmt.Sprintf("trust = %q\n", filepath.Join(dir, "ca.pem"))
	identity := fmt.Sprintf("certificate = %q\nprivate_key = %q\n", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	client, server := write("rpctlscd.toml", trust+identity), write("rpctlssd.toml", identity)
	if policy != rpctlssd.CertificateNone {
		server = write("rpctlssd.toml", trust+identity+fmt.Sprintf("client_certificate = %q\n", policy))
	}
	f.client = func() (*Client, error) {
		cfg, err := rpctlscd.Load(client)
		if err != nil {
			return nil, err
		}
		l, err := rpctlscd.Program().Build(cfg, new(certs.Files))
		return &Client{cfg, l}, err
	}
	f.server = func() (*Server, error) {
		cfg, err := rpctlssd.Load(server)
		if err != nil {
			return nil, err
		}
		l, err := rpctlssd.Program().Build(cfg, new(certs.Files))
		return &Server{cfg, l}, err
	}
}

func newFake(t *testing.T) *fake {
	f := &fake{
		now:      time.Now(),
		files:    map[string]string{clientConfig: "", serverConfig: ""},
		members:  []uint32{11, 22, 11},
		programs: map[uint32]string{},
		recorded: map[string]uint32{"rpctlscd.lock": 11, "rpctlssd.lock": 22},
		threads:  8,
		running:  map[string]bool{"rpctlscd": true, "rpctlssd": true},
		result:   wellProbed(),
	}
	f.load(t, f.now.Add(60*24*time.Hour), rpctlssd.CertificateRequest)
	return f
}

// wellProbed is what a probe finds where all is well.
func wellProbed() *probe.Result {
	ok := func() *probe.Step { return &probe.Step{OK: true, Took: time.Millisecond} }
	session := func(shown bool) *probe.Session {
		return &probe.Session{Handshake: *ok(), Version: "TLS 1.3", Asked: true, Shown: shown, Verified: "ok", Null: ok(), Export: &probe.Listing{Step: *ok()}}
	}
	return &probe.Result{Host: "server.test", Port: 2049, Export: "/x", Resolve: *ok(), Addresses: []probe.Address{{
		Address: netip.MustParseAddrPort("192.0.2.1:2049"), Connect: ok(), Null: ok(), AuthTLS: ok(), Anonymous: session(false), Mutual: session(true),
	}}}
}

func bad(reason, text string) *probe.Step { return &probe.Step{Reason: reason, Error: text} }

// said are the findings of a run, faults first as a word each.
func (f *fake) said(o Options) (r *Report, list []string) {
	o.ClientConfig, o.ServerConfig = clientConfig, serverConfig
	if o.Security == "" {
		o.Security = Prefer
	}
	r = Run(context.Background(), f, o)
	for _, x := range r.Findings {
		list = append(list, fmt.Sprintf("%s %s: %s", x.Level, x.Check, x.What))
	}
	return r, list
}

var mount = Options{Server: "server.test", Export: "/x"}

func TestWell(t *testing.T) {
	f := newFake(t)
	if r, list := f.said(Options{}); len(list) > 0 || r.Mount != "" || len(f.probed) > 0 {
		t.Errorf("%q, %q", list, r.Mount)
	}
	r, list := f.said(mount)
	if len(list) > 0 || r.Mount != "mount -t nfstls -o mtls server.test:/x /mnt" || r.Faults() {
		t.Errorf("%q, %q", list, r.Mount)
	}
	if len(f.probed) != 1 || f.probed[0].Identity == nil || f.probed[0].Verify == nil {
		t.Errorf("probed %+v", f.probed)
	}
	for _, c := range r.Checks {
		if c.State != OK {
			t.Errorf("%+v", c)
		}
	}
	if text, err := json.Marshal(r); err != nil || !strings.Contains(string(text), `"findings":[]`) {
		t.Errorf("%s, %v", text, err)
	}
}

// TestLocal: each cause is found, and nothing that follows from it.
func TestLocal(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *fake)
		o      Options
		want   []string
	}{
		{"no TLS in the kernel", func(_ *testing.T, f *fake) {
			f.tls, f.running, f.members = errors.New("no ulp"), nil, nil
			f.client = func() (*Client, error) { return nil, errors.New("not asked") }
		}, mount, []string{"fault kernel: this host's kernel has no TLS"}},
		{"no handshake family", func(_ *testing.T, f *fake) { f.group = errors.New("no family") }, mount,
			[]string{"fault handshakes: this kernel asks nobody for TLS handshakes"}},
		{"clock", func(_ *testing.T, f *fake) { f.now = time.Unix(86400, 0) }, mount,
			[]string{"fault clock: this host's clock says 1970-01-02T00:00:00Z, which is past"}},
		{"not configured", func(_ *testing.T, f *fake) {
			f.client = func() (*Client, error) {
				return nil, fmt.Errorf("read: %w", &fs.PathError{Op: "open", Path: clientConfig, Err: fs.ErrNotExist})
			}
			f.running = nil
		}, mount, []string{"fault client-files: rpctlscd is not configured"}},
		{"key", func(_ *testing.T, f *fake) {
			f.client = func() (*Client, error) {
				return nil, fmt.Errorf("read /k: %w: mode 0644", certs.ErrKeyPermission)
			}
			f.running = nil
		}, mount, []string{"fault client-files: rpctlscd does not take a private key that others can read or write"}},
		{"no agent", func(_ *testing.T, f *fake) { f.running, f.result = nil, nil }, mount, []string{"fault client-agent: " + why.NotRunning.What}},
		{"agent elsewhere", func(_ *testing.T, f *fake) { f.members = []uint32{22} }, mount, []string{"fault client-agent: " + why.OtherNamespace.What}},
		{"expired", func(t *testing.T, f *fake) { f.load(t, f.now.Add(-time.Hour), rpctlssd.CertificateRequest) }, mount,
			[]string{"fault client-dates: this host's certificate has expired"}},
		{"expires", func(t *testing.T, f *fake) { f.load(t, f.now.Add(72*time.Hour), rpctlssd.CertificateRequest) }, mount,
			[]string{"warning client-dates: this host's certificate expires in 3 days"}},
		{"expired without being shown", func(t *testing.T, f *fake) { f.load(t, f.now.Add(-time.Hour), rpctlssd.CertificateRequest) },
			Options{Server: "server.test", Export: "/x", Security: Anonymous}, nil},
		{"tlshd", func(_ *testing.T, f *fake) { f.members, f.programs[33] = append(f.members, 33), "tlshd (process 7)" }, mount,
			[]string{"fault rivals: " + why.Rival.What}},
		{"tlshd, and no way to the server", func(_ *testing.T, f *fake) {
			f.members, f.programs[33] = append(f.members, 33), "tlshd (process 7)"
			f.result.Addresses[0].Connect = bad("refused", "no")
		}, mount, []string{"warning rivals: " + why.Rival.What, "fault server: nothing listens on port 2049 of server.test"}},
		{"ours by another file", func(_ *testing.T, f *fake) { f.members, f.programs[33] = append(f.members, 33), "rpctlscd (process 7)" }, mount, nil},
		{"no agent on a server", func(_ *testing.T, f *fake) { f.running["rpctlssd"] = false }, Options{},
			[]string{"fault server-agent: nobody answers nfsd's request for a TLS handshake: rpctlssd is not running"}},
		{"other names", func(_ *testing.T, f *fake) { f.names = []string{"here", "192.0.2.1"} }, Options{},
			[]string{"warning server-dates: the server's certificate is for none of the names and addresses of this host"}},
		{"its name", func(_ *testing.T, f *fake) { f.names = []string{"Host", "192.0.2.1"} }, Options{}, nil},
		{"nfsd", func(_ *testing.T, f *fake) { f.threads = 0 }, Options{}, []string{"fault nfsd: the NFS server does not run"}},
		{"a mount elsewhere", func(_ *testing.T, f *fake) {
			f.spaces = []Namespace{{Name: "/run/netns/a", Mounts: []string{"s:/x"}, Members: 1}, {Name: "/run/netns/b", Mounts: []string{"s:/x"}}}
		}, Options{}, []string{"fault namespaces: nobody answers the kernel for mounts with TLS in another network namespace: they hang when their connection breaks"}},
		{"nfsd elsewhere", func(_ *testing.T, f *fake) {
			f.spaces = []Namespace{{Process: "77", Threads: 8}, {Name: "/run/netns/c"}}
		}, Options{},
			[]string{"warning namespaces: nobody answers the kernel for the NFS server of another network namespace: its clients get no TLS"}},
		{"a mount elsewhere, and another here", func(_ *testing.T, f *fake) { f.spaces = []Namespace{{Name: "/run/netns/b", Mounts: []string{"s:/x"}}} }, mount, nil},
		{"tls alone", func(_ *testing.T, f *fake) {
			f.files[etab] = "/a\t*(rw,xprtsec=tls,fsid=1)\n/b\t*(rw,xprtsec=tls:mtls)\n/c\t*(rw)\n/d\t*(rw,xprtsec=mtls)\n"
		}, Options{}, []string{"fault exports: an export refuses clients that show a certificate, and rpctlssd asks for one"}},
		{"mtls alone", func(t *testing.T, f *fake) {
			f.load(t, f.now.Add(60*24*time.Hour), rpctlssd.CertificateNone)
			f.files[etab] = "/a\t*(rw,xprtsec=tls)\n/b\t*(rw,xprtsec=tls:mtls)\n/d\t*(rw,xprtsec=mtls)\n/e\t*(xprtsec=none:mtls)\n"
		}, Options{}, []string{"fault exports: an export demands a certificate of clients, and rpctlssd asks for none"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			tt.change(t, f)
			r, list := f.said(tt.o)
			if !slices.Equal(list, tt.want) {
				t.Errorf("got %q\nwant %q", list, tt.want)
			}
			for _, x := range r.Findings {
				if x.Command == "" || x.Evidence == "" {
					t.Errorf("%+v: no command, or nothing that shows it", x)
				}
			}
		})
	}
}

// TestRemote: one fault at the most, whatever else there is.
func TestRemote(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*probe.Address)
		want   Security
		says   string
	}{
		{"refused", func(a *probe.Address) { a.Connect = bad("refused", "x") }, Prefer, "nothing listens"},
		{"no TLS", func(a *probe.Address) { a.AuthTLS = bad("no_tls", "x") }, Prefer, "does not offer TLS"},
		{"expired", func(a *probe.Address) { a.Anonymous.Handshake, a.Mutual = *bad("expired", "x"), nil }, Prefer, "certificate has expired"},
		{"late alert", func(a *probe.Address) { a.Mutual.Null = bad("peer_alert", "peer sent alert access_denied") }, Prefer, "policy refuses"},
		{"hangs up on the certificate", func(a *probe.Address) { a.Mutual.Null = bad("closed", "EOF") }, Prefer, "does not accept this host's certificate"},
		{"not asked", func(a *probe.Address) { a.Mutual.Shown = false }, Mutual, "does not ask for a certificate"},
		{"not asked, and well so", func(a *probe.Address) { a.Mutual.Shown = false }, Prefer, ""},
		{"tls alone", func(a *probe.Address) { a.Mutual.Export = refused("NFS4ERR_WRONGSEC") }, Prefer, "xprtsec=tls alone"},
		{"neither", func(a *probe.Address) {
			a.Mutual.Export, a.Anonymous.Export = refused("NFS4ERR_WRONGSEC"), refused("NFS4ERR_WRONGSEC")
		}, Prefer, "lets nobody in over TLS"},
		{"mtls alone", func(a *probe.Address) { a.Anonymous.Export = refused("NFS4ERR_WRONGSEC") }, Prefer, ""},
		{"mtls alone, without a certificate", func(a *probe.Address) { a.Anonymous.Export, a.Mutual = refused("NFS4ERR_WRONGSEC"), nil }, Anonymous, "this host has none"},
		{"demanded", func(a *probe.Address) {
			a.Anonymous.Null, a.Mutual = bad("peer_alert", "peer sent alert certificate_required"), nil
		}, Anonymous, "demands a certificate"},
		{"no export", func(a *probe.Address) { a.Mutual.Export = refused("NFS4ERR_NOENT") }, Prefer, "exports no /x"},
		{"port", func(a *probe.Address) { a.Mutual.Export = refused("NFS4ERR_PERM") }, Prefer, "below 1024"},
		{"rights", func(a *probe.Address) { a.Mutual.Export = refused("NFS4ERR_ACCESS") }, Prefer, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := wellProbed()
			tt.change(&r.Addresses[0])
			best, faults, warnings := Judge(r, tt.want)
			if len(faults) > 1 || len(warnings) > 0 || best != 0 || (len(faults) == 1) != (tt.says != "") {
				t.Fatalf("%d, %+v, %+v", best, faults, warnings)
			}
			if len(faults) == 1 && (!strings.Contains(faults[0].What, tt.says) || faults[0].Command == "") {
				t.Errorf("%+v, want %q", faults[0], tt.says)
			}
			// Beside an address where all is well it is a warning.
			r.Addresses = append(r.Addresses, wellProbed().Addresses...)
			if best, faults, warnings = Judge(r, tt.want); tt.says != "" && (best != 1 || len(faults) > 0 || len(warnings) != 1) {
				t.Errorf("with another address: %d, %+v, %+v", best, faults, warnings)
			}
		})
	}
}

func refused(status string) *probe.Listing {
	return &probe.Listing{Step: *bad("nfs", "LOOKUP /x: "+status), Status: status}
}

func TestHistory(t *testing.T) {
	f := newFake(t)
	f.events = []history.Event{{Time: f.now.Add(-time.Minute), Role: "client", Reason: "expired", Error: "it has"}}
	_, list := f.said(mount)
	if !slices.Equal(list, []string{"warning history: a moment ago a mount failed, though all is well now: the server's certificate has expired"}) {
		t.Errorf("%q", list)
	}
	f.events = append(f.events, history.Event{Time: f.now, Reason: "ok"})
	if _, list = f.said(mount); len(list) > 0 {
		t.Errorf("after a success: %q", list)
	}
}

func TestParseEtab(t *testing.T) {
	list, err := parseEtab([]byte("# x\n/a\\040b\t10.0.0.0/8(rw,sync,sec=sys,xprtsec=tls:mtls)\n\n/c *(ro)\n"))
	if err != nil || len(list) != 2 || list[0].path != "/a b" || list[0].client != "10.0.0.0/8" || !list[0].takes("tls") || list[0].takes("none") || !list[1].takes("none") {
		t.Errorf("%+v, %v", list, err)
	}
	for _, wrong := range []string{"a *(ro)", "/a", "/a *", "/a *(ro", "/a\t" + strings.Repeat("x", maxLine) + "(ro)"} {
		if list, err := parseEtab([]byte(wrong)); err == nil {
			t.Errorf("%.20q: %+v", wrong, list)
		}
	}
}

func FuzzParseEtab(f *testing.F) {
	f.Add([]byte("/a\\040b\t10.0.0.0/8(rw,xprtsec=tls:mtls)\n"))
	f.Add([]byte("/c *(ro)\n/\\777\\\t(xprtsec=)"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseEtab(text)
		if err != nil && list != nil || len(list) > maxExports {
			t.Errorf("%d exports and %v", len(list), err)
		}
		for _, e := range list {
			if strings.ContainsAny(e.path+e.client, "\n\t") {
				t.Errorf("%+v", e)
			}
		}
	})
}

// TestServeNamespace: the command is what is still missing.
func TestServeNamespace(t *testing.T) {
	const install = "install -D -m 0644 /usr/share/rpctls/namespaces.conf /etc/systemd/system/rpctlssd.service.d/namespaces.conf && systemctl daemon-reload && "
	for _, tt := range []struct {
		name   string
		space  Namespace
		change func(*fake, *rpctlssd.Config)
		want   string
	}{
		{"all", Namespace{Name: "/run/netns/a", Threads: 1}, func(*fake, *rpctlssd.Config) {},
			install + `echo 'namespaces = ["host", "/run/netns/*"]' > /etc/rpctls/rpctlssd.d/90-namespaces.toml && systemctl restart rpctlssd`},
		{"drop-in", Namespace{Name: "/run/netns/a", Threads: 1}, func(_ *fake, c *rpctlssd.Config) { c.Namespaces = spacesOf(t, "host", "/run/netns/a") },
			install + "systemctl restart rpctlssd"},
		{"configuration", Namespace{Name: "/run/netns/a", Threads: 1}, func(f *fake, c *rpctlssd.Config) {
			f.files["/etc/systemd/system/rpctlssd.service.d/namespaces.conf"] = ""
			c.Namespaces = spacesOf(t, "host", "/run/netns/b")
		}, `echo 'namespaces = ["host", "/run/netns/b", "/run/netns/*"]' > /etc/rpctls/rpctlssd.d/90-namespaces.toml && systemctl restart rpctlssd`},
		{"name", Namespace{Process: "77", Threads: 1}, func(*fake, *rpctlssd.Config) {}, "ip netns attach NAME 77"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.spaces = []Namespace{tt.space}
			old := f.server
			f.server = func() (*Server, error) {
				s, err := old()
				if err == nil {
					tt.change(f, &s.Config)
				}
				return s, err
			}
			r, _ := f.said(Options{})
			if len(r.Findings) != 1 || r.Findings[0].Command != tt.want {
				t.Errorf("got %+v\nwant %s", r.Findings, tt.want)
			}
		})
	}
}

func spacesOf(t *testing.T, texts ...string) (list []netns.Pattern) {
	t.Helper()
	for _, s := range texts {
		p, err := netns.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// TestRealNamespaces: a namespace that has a name, and one that has a process, are
// found on this machine; the own is not.
func TestRealNamespaces(t *testing.T) {
	named := filepath.Join("/run/netns", fmt.Sprintf("rpctls-doctor-%d", os.Getpid()))
	netnstest.Make(t, named)
	list, err := This().Namespaces(2) // any group will do
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(n Namespace) bool { return n.Name == named && n.Process == "" && len(n.Mounts) == 0 }) {
		t.Errorf("not there: %+v", list)
	}
	for _, n := range list {
		if n.Process == fmt.Sprint(os.Getpid()) {
			t.Errorf("our own is there: %+v", n)
		}
	}
	if got := devices("NV SERVER   PORT DEV          FSID                              FSC\nv4 0a000001  801 0:50         0:0                               no \nx\n"); len(got) != 1 || !got["0:50"] {
		t.Errorf("devices %v", got)
	}
}
