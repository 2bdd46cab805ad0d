// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"rpctls/certs"
	"rpctls/internal/names"
	"rpctls/internal/nfsclient"
	"rpctls/internal/reason"
	"rpctls/rpc"
)

// NFSPort is where NFS servers listen.
const NFSPort = 2049

// DefaultLimit bounds each step: nfsd itself waits for 5 s for its agent.
const DefaultLimit = 6 * time.Second

// maxAddresses bounds the addresses that are tried.
const maxAddresses = 8

// Options say what to probe.
type Options struct {
	Host   string // as a mount names it: a name, or an address with or without brackets
	Port   uint16 // 0 is NFSPort
	Export string // to be listed; "": nothing is

	// Identity is shown if the server asks for a certificate; nil: none.
	Identity *certs.Identity
	// Verify judges the server; nil: whatever it shows is accepted, and Identity
	// is not shown.
	Verify func(tls.ConnectionState) error

	Limit time.Duration // of each step; 0 is DefaultLimit
	Cred  rpc.OpaqueAuth

	// Resolve looks up a name; nil is the system's way.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// A Step is how one step went.
type Step struct {
	OK     bool          `json:"ok"`
	Took   time.Duration `json:"took_ns"`
	Reason string        `json:"reason,omitempty"` // of internal/reason; empty if OK
	Error  string        `json:"error,omitempty"`
}

// A Result is what was found.
type Result struct {
	Host      string    `json:"host"`
	Port      uint16    `json:"port"`
	Export    string    `json:"export,omitempty"`
	Time      time.Time `json:"time"`
	Resolve   Step      `json:"resolve"`
	Addresses []Address `json:"addresses"`
	Untried   int       `json:"untried,omitempty"` // addresses beyond those that are tried
}

// An Address is what was found at one address. Steps that were not reached are
// nil.
type Address struct {
	Address netip.AddrPort `json:"address"`
	Connect *Step          `json:"connect,omitempty"`
	Null    *Step          `json:"null,omitempty"`     // NULL of NFSv4 in clear
	AuthTLS *Step          `json:"auth_tls,omitempty"` // RFC 9289 section 4.1
	// Anonymous and Mutual are the session without and with a certificate of
	// this host.
	Anonymous *Session `json:"anonymous,omitempty"`
	Mutual    *Session `json:"mutual,omitempty"`
}

// A Session is one TLS session, or what became of it.
type Session struct {
	Handshake Step   `json:"handshake"`
	Version   string `json:"version,omitempty"`
	Cipher    string `json:"cipher,omitempty"`
	Group     string `json:"group,omitempty"`
	ALPN      string `json:"alpn,omitempty"`
	Asked     bool   `json:"asked"`   // the server asked for a certificate
	Shown     bool   `json:"shown"`   // and got that of this host
	Tickets   int    `json:"tickets"` // that the server sent
	// Verified is "ok", the reason against the server, or empty if nothing was
	// judged.
	Verified string        `json:"verified,omitempty"`
	Chain    []Certificate `json:"chain,omitempty"`
	// Null is NULL over TLS: a server refuses a certificate only after the
	// handshake (RFC 8446 section 4.4.2.4).
	Null   *Step    `json:"null,omitempty"`
	Export *Listing `json:"export,omitempty"`
}

// A Listing is the export.
type Listing struct {
	Step
	Status  string   `json:"status,omitempty"` // of NFS, if the server refused
	Minor   uint32   `json:"minor_version"`
	Entries []string `json:"entries,omitempty"`
	More    bool     `json:"more,omitempty"`
}

// Run probes. It returns when all is known, or ctx has ended.
func Run(ctx context.Context, o Options) *Result {
	o.Port = cmp.Or(o.Port, NFSPort)
	o.Limit = cmp.Or(o.Limit, DefaultLimit)
	r := &Result{Host: o.Host, Port: o.Port, Export: o.Export, Time: time.Now()}
	var addrs []netip.Addr
	r.Resolve = step(ctx, o.Limit, fault, func(ctx context.Context) (err error) {
		addrs, err = o.resolve(ctx)
		return err
	})
	if extra := len(addrs) - maxAddresses; extra > 0 {
		addrs, r.Untried = addrs[:maxAddresses], extra
	}
	r.Addresses = make([]Address, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		wg.Go(func() { r.Addresses[i] = o.address(ctx, netip.AddrPortFrom(a, o.Port)) })
	}
	wg.Wait()
	return r
}

// step runs one step within its limit.
func step(ctx context.Context, limit time.Duration, why func(error) string, f func(context.Context) error) Step {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	err := f(ctx)
	s := Step{OK: err == nil, Took: time.Since(began)}
	if err != nil {
		s.Reason, s.Error = why(err), printable(err.Error())
	}
	return s
}

func fault(err error) string { return string(reason.FaultOf(err)) }

func (o Options) resolve(ctx context.Context) ([]netip.Addr, error) {
	if addr, ok := names.Addr(o.Host); ok {
		return []netip.Addr{addr}, nil
	}
	look := o.Resolve
	if look == nil {
		look = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	found, err := look(ctx, o.Host)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, a := range found {
		if a = a.Unmap(); !seen[a] {
			seen[a] = true
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no address", Name: o.Host, IsNotFound: true}
	}
	return addrs, nil
}

// address goes as far as it comes with one address.
func (o Options) address(ctx context.Context, to netip.AddrPort) Address {
	a := Address{Address: to}
	// In clear first, on a connection of its own: whether there is NFS at all.
	var conn net.Conn
	connect := step(ctx, o.Limit, fault, func(ctx context.Context) (err error) {
		conn, err = dialer().DialContext(ctx, "tcp", to.String())
		return err
	})
	a.Connect = &connect
	if !connect.OK {
		return a
	}
	clear := rpc.NewClient(conn, rpc.Config{Program: rpc.ProgramNFS, Version: rpc.NFSVersion4, MaxReply: maxReply})
	null := step(ctx, o.Limit, fault, clear.Null)
	clear.Close()
	a.Null = &null
	if !null.OK {
		return a
	}
	a.Anonymous = o.session(ctx, &a, to, nil)
	if o.Identity != nil && o.Verify != nil && a.Anonymous != nil && a.Anonymous.mayGoOn() {
		a.Mutual = o.session(ctx, &a, to, o.Identity)
	}
	return a
}

// maxReply bounds replies in bytes: those to NULL, and a page of a directory.
const maxReply = 64 << 10

// mayGoOn reports whether a session with a certificate may go otherwise.
func (s *Session) mayGoOn() bool { return s.Handshake.OK }

// session makes a session, and uses it.
func (o Options) session(ctx context.Context, a *Address, to netip.AddrPort, id *certs.Identity) *Session {
	s := new(Session)
	tickets := new(ticketCounter)
	cfg := &tls.Config{
		ServerName:         sni(o.Host),
		InsecureSkipVerify: true, // VerifyConnection is called for every handshake
		ClientSessionCache: tickets,
		VerifyConnection: func(cs tls.ConnectionState) error {
			s.describe(cs)
			if o.Verify == nil {
				return nil
			}
			err := o.Verify(cs)
			s.Verified = string(reason.Of(err))
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			s.Asked = true
			if id == nil {
				return new(tls.Certificate), nil
			}
			s.Shown = true
			return id.Certificate(), nil
		},
	}
	d := rpc.Dialer{
		NetDialer: *dialer(), Program: rpc.ProgramNFS, Version: rpc.NFSVersion4, Cred: o.Cred, MaxReply: maxReply, TLS: cfg,
		Handshake: handshake,
	}
	var c *rpc.Client
	var dial *rpc.DialError
	all := step(ctx, 3*o.Limit, func(err error) string {
		return string(reason.Of(err))
	}, func(ctx context.Context) (err error) {
		c, dial, err = o.dial(ctx, &d, to)
		return err
	})
	if dial != nil && dial.Step != rpc.StepHandshake {
		failed := Step{Took: dial.Timing.Probe, Reason: fault(dial.Err), Error: printable(dial.Err.Error())}
		if dial.Step == rpc.StepConnect {
			failed.Took = dial.Timing.Connect
			a.Connect = &failed
		} else {
			a.AuthTLS = &failed
		}
		return nil
	}
	timing := rpc.Timing{}
	if dial != nil {
		timing = dial.Timing
	} else if c != nil {
		timing = c.Timing()
	}
	a.AuthTLS = &Step{OK: true, Took: timing.Probe}
	all.Took = timing.Handshake
	s.Handshake = all
	if c == nil {
		return s
	}
	defer c.Close()
	null := step(ctx, o.Limit, overTLS, func(ctx context.Context) error { return explain(c.Null(ctx)) })
	s.Null = &null
	s.Tickets = tickets.count()
	if null.OK && o.Export != "" {
		s.Export = o.list(ctx, c)
	}
	return s
}

// overTLS is the reason for a call's failure: the peer's last word as TLS knows it,
// or what RPC knows.
func overTLS(err error) string {
	if f := reason.FaultOf(err); f == reason.FaultNotRPC || f == reason.FaultNoNFS {
		return string(f)
	}
	return string(reason.Of(err))
}

// dial calls the dialer with a limit for each step: it knows of one for all.
func (o Options) dial(ctx context.Context, d *rpc.Dialer, to netip.AddrPort) (*rpc.Client, *rpc.DialError, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err == nil {
		return c, nil, nil
	}
	de, ok := err.(*rpc.DialError)
	if !ok {
		return nil, nil, err
	}
	return nil, de, de.Err
}

func (o Options) list(ctx context.Context, c *rpc.Client) *Listing {
	l := new(Listing)
	l.Step = step(ctx, o.Limit, func(err error) string {
		if status, ok := nfsclient.StatusOf(err); ok {
			l.Status = status.String()
			return "nfs"
		}
		return overTLS(err)
	}, func(ctx context.Context) error {
		found, err := nfsclient.List(ctx, c, o.Export)
		if err != nil {
			return explain(err)
		}
		l.Minor, l.More = found.Minor, found.More
		for _, name := range found.Entries {
			l.Entries = append(l.Entries, printable(name))
		}
		return nil
	})
	return l
}

// sni is what goes into server_name: no literal addresses (RFC 6066 section 3).
// crypto/tls leaves those out itself; an empty name would be replaced by the
// dialer's.
func sni(host string) string {
	if a, ok := names.Addr(host); ok {
		return a.String()
	}
	return host
}

// String says what was found in one line.
func (s Step) String() string {
	if s.OK {
		return fmt.Sprintf("ok, %s", s.Took.Round(10*time.Microsecond))
	}
	return fmt.Sprintf("%s: %s", s.Reason, s.Error)
}

// Summary says in a few words how far it went, one each.
func (a Address) Summary() (list []string) {
	list = append(list, a.Address.String())
	for _, s := range []*Session{a.Mutual, a.Anonymous} {
		if s != nil && s.Handshake.OK {
			return append(list, s.Version, s.Cipher, s.Group)
		}
	}
	return list
}
