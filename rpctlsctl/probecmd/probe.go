// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package probecmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/internal/config"
	"rpctls/internal/doctor"
	"rpctls/internal/probe"
	"rpctls/rpc"
	"rpctls/rpctlscd"
	"rpctls/rpctlsctl/cli"
)

// A Report is what --json prints.
type Report struct {
	*probe.Result
	Judged   bool             `json:"judged"` // there was something to judge the server by
	Findings []doctor.Finding `json:"findings"`
}

type command struct {
	config, certificate, key, trust string
	crl                             []string
	timeout                         time.Duration
	asJSON                          bool
}

// New returns the command.
func New() *cobra.Command {
	var c command
	cmd := &cobra.Command{
		Use:   "probe SERVER[:PORT][/EXPORT]",
		Short: "look at an NFS server over TLS, from any host",
		Long: `Connect to every address of a server as an NFS client would, without the kernel's
help and without root: NFS in clear, whether TLS is offered, the session with and
without a certificate of ours, the server's certificates, and the export.

The server is judged, and a certificate shown to it, by what rpctlscd's
configuration says for that server, or by --trust, --certificate and --key.
Without either it is shown and not judged.

The exit code is 0 if all is well, 1 if something is wrong, 2 for a wrong command
line.`,
		Example: "  rpctlsctl probe nfs.example.com/export\n  rpctlsctl probe --trust ca.pem [2001:db8::1]:2049",
		Args:    cli.Args(1, 1, "a server"),
		RunE:    c.run,
	}
	f := cmd.Flags()
	f.StringVar(&c.config, "config", defaultConfig, "configuration `file` of rpctlscd")
	f.StringVar(&c.trust, "trust", "", "judge by these CAs: a `file`, a directory or \"system\"")
	f.StringSliceVar(&c.crl, "crl", nil, "and by this CRL: a `file` or directory, with --trust")
	f.StringVar(&c.certificate, "certificate", "", "show the certificate in this `file`, with --trust and --key")
	f.StringVar(&c.key, "key", "", "its private key, in this `file`")
	f.DurationVar(&c.timeout, "timeout", probe.DefaultLimit, "give up a step after this `time`")
	f.BoolVar(&c.asJSON, "json", false, "print an object for programs")
	return cmd
}

const defaultConfig = "/etc/rpctls/rpctlscd.toml"

func (c *command) run(cmd *cobra.Command, args []string) error {
	t, err := probe.ParseTarget(args[0])
	if err != nil {
		return cli.Usagef("%w", err)
	}
	switch {
	case (c.certificate == "") != (c.key == ""):
		return cli.Usagef("--certificate and --key go together")
	case c.trust == "" && (c.certificate != "" || len(c.crl) > 0):
		return cli.Usagef("--certificate and --crl need --trust: nothing is shown to a server that nobody vouches for")
	case c.timeout < 100*time.Millisecond || c.timeout > time.Minute:
		return cli.Usagef("--timeout %v is not between 100ms and 1m", c.timeout)
	}
	view, err := c.view(cmd, t.Host)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "rpctlsctl"
	}
	cred, err := (&rpc.AuthSysParms{MachineName: host, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}).Cred()
	if err != nil {
		return err
	}
	r := probe.Run(cmd.Context(), probe.Options{
		Host: t.Host, Port: t.Port, Export: t.Export, Identity: view.Identity, Verify: view.Verify, Limit: c.timeout, Cred: cred,
	})
	_, findings, warnings := doctor.Judge(r, doctor.Prefer)
	faulty := len(findings) > 0
	findings = append(findings, warnings...)
	if c.asJSON {
		if findings == nil {
			findings = []doctor.Finding{}
		}
		if err := cli.JSON(cmd.OutOrStdout(), Report{r, view.Verify != nil, findings}); err != nil {
			return err
		}
	} else if _, err := cmd.OutOrStdout().Write([]byte(text(r, view.Verify != nil, findings))); err != nil {
		return err
	}
	if faulty {
		return cli.Found
	}
	return nil
}

// view is what to judge by and what to show.
func (c *command) view(cmd *cobra.Command, host string) (rpctlscd.View, error) {
	var cfg rpctlscd.Config
	var err error
	if c.trust != "" {
		cfg.Settings = config.Defaults()
		cfg.Trust, cfg.Certificate, cfg.PrivateKey = config.Trust(c.trust), config.Path(c.certificate), config.Path(c.key)
		for _, p := range c.crl {
			cfg.CRL = append(cfg.CRL, config.Path(p))
		}
	} else if cfg, err = rpctlscd.Load(c.config); err != nil {
		if c.config == defaultConfig && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: the server is not judged: %v; --trust FILE\n", err)
			return rpctlscd.View{}, nil
		}
		return rpctlscd.View{}, err
	}
	loaded, err := rpctlscd.Program().Build(cfg, new(certs.Files))
	if c.trust == "" && errors.Is(err, fs.ErrPermission) {
		// Whoever is not root has no business with the key, and judges all the same.
		fmt.Fprintf(cmd.ErrOrStderr(), "note: no certificate is shown: %v\n", err)
		cfg.Certificate, cfg.PrivateKey = "", ""
		for i := range cfg.Servers {
			cfg.Servers[i].Certificate, cfg.Servers[i].PrivateKey = "", ""
		}
		loaded, err = rpctlscd.Program().Build(cfg, new(certs.Files))
	}
	if err != nil {
		return rpctlscd.View{}, err
	}
	return loaded.View(host), nil
}

// text is a result for a person.
func text(r *probe.Result, judged bool, findings []doctor.Finding) string {
	var b strings.Builder
	line := func(indent int, name, format string, args ...any) {
		fmt.Fprintf(&b, "%*s%-*s %s\n", indent, "", 16-indent, name, fmt.Sprintf(format, args...))
	}
	step := func(indent int, name string, s *probe.Step) {
		if s != nil {
			line(indent, name, "%v", *s)
		}
	}
	step(0, "resolve", &r.Resolve)
	chains := make(map[string]bool)
	for _, a := range r.Addresses {
		fmt.Fprintf(&b, "%s\n", a.Address)
		step(2, "connect", a.Connect)
		step(2, "NFSv4 in clear", a.Null)
		step(2, "TLS offered", a.AuthTLS)
		for _, s := range []struct {
			name string
			*probe.Session
		}{{"without a certificate of this host", a.Anonymous}, {"with the certificate of this host", a.Mutual}} {
			if s.Session == nil {
				continue
			}
			fmt.Fprintf(&b, "  %s\n", s.name)
			session(line, step, s.Session, judged)
			if len(s.Chain) > 0 && !chains[s.Chain[0].Fingerprint] {
				chains[s.Chain[0].Fingerprint] = true
				for i, cert := range s.Chain {
					certificate(line, i, cert)
				}
			}
		}
	}
	if r.Untried > 0 {
		line(0, "not tried", "%d more addresses", r.Untried)
	}
	for _, f := range findings {
		if f.Level == doctor.Warning {
			b.WriteString("warning: ")
		}
		fmt.Fprintf(&b, "%s\n    seen: %s\n", f.What, f.Evidence)
		if f.Command != "" {
			where := f.Where
			if where != "" {
				where += ": "
			}
			fmt.Fprintf(&b, "    do:   %s%s\n", where, f.Command)
		}
	}
	return b.String()
}

func session(line func(int, string, string, ...any), step func(int, string, *probe.Step), s *probe.Session, judged bool) {
	step(4, "handshake", &s.Handshake)
	if s.Version != "" {
		alpn := s.ALPN
		if alpn == "" {
			alpn = "none"
		}
		line(4, "agreed on", "%s, %s, %s, ALPN %s", s.Version, s.Cipher, s.Group, alpn)
		verified := s.Verified
		if !judged {
			verified = "not judged"
		}
		line(4, "server", "%s", verified)
		shown := "not asked for"
		switch {
		case s.Shown:
			shown = "shown"
		case s.Asked:
			shown = "asked for, none shown"
		}
		line(4, "certificate", "%s", shown)
		line(4, "tickets", "%d", s.Tickets)
	}
	step(4, "NFSv4 over TLS", s.Null)
	if l := s.Export; l != nil {
		if l.OK {
			more := ""
			if l.More {
				more = " and more"
			}
			line(4, "export", "%d entries%s, NFSv4.%d, %s", len(l.Entries), more, l.Minor, l.Took.Round(10*time.Microsecond))
		} else {
			line(4, "export", "%v", l.Step)
		}
	}
}

func certificate(line func(int, string, string, ...any), n int, c probe.Certificate) {
	line(4, fmt.Sprintf("chain %d", n), "%s", c.Subject)
	line(6, "issuer", "%s", c.Issuer)
	line(6, "serial", "%s", c.Serial)
	if len(c.Names) > 0 {
		line(6, "names", "%s", strings.Join(c.Names, ", "))
	}
	line(6, "valid", "%s to %s", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	line(6, "SHA-256", "%s", c.Fingerprint)
	line(6, "pin", "%s", c.Pin)
}
