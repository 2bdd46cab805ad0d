// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctorcmd

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpctls/internal/daemon"
	"rpctls/internal/doctor"
	"rpctls/internal/probe"
	"rpctls/rpctlsctl/cli"
)

// New returns the command; sys is what it looks at.
func New(sys doctor.System) *cobra.Command {
	var o doctor.Options
	var options string
	var verbose, asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [SERVER[:PORT][:/EXPORT]]",
		Short: "find out why NFS over TLS does not work here",
		Long: `Look at this host from the kernel to its files, and with a server at the way to
its export, and say what is wrong, what shows it, and which command mends it. What
would only follow from something that is wrong already is not looked at.

The exit code is 0 if nothing is wrong, 1 if something is, 2 for a wrong command
line. Run it as root: what a user may not look at is not looked at.`,
		Example: "  rpctlsctl doctor\n  rpctlsctl doctor -o mtls nfs.example.com:/export",
		Args:    cli.Args(0, 1, "at most one server"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := security(&o, options); err != nil {
				return err
			}
			if len(args) == 1 {
				t, err := probe.ParseTarget(args[0])
				if err != nil {
					return cli.Usagef("%w", err)
				}
				o.Server, o.Port, o.Export = t.Host, t.Port, t.Export
			}
			r := doctor.Run(cmd.Context(), sys, o)
			if asJSON {
				if err := cli.JSON(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			} else if err := Print(cmd.OutOrStdout(), r, verbose); err != nil {
				return err
			}
			if r.Faults() {
				return cli.Found
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&options, "options", "o", "tls", "`option` of the mount: tls, mtls, xprtsec=tls or tlscertname=NAME")
	f.StringVar(&o.ClientConfig, "client-config", "/etc/rpctls/rpctlscd.toml", "configuration `file` of rpctlscd")
	f.StringVar(&o.ServerConfig, "server-config", "/etc/rpctls/rpctlssd.toml", "configuration `file` of rpctlssd")
	f.StringVar(&o.User, "user", daemon.User, "read files as this `user`, if there is one")
	f.DurationVar(&o.Limit, "timeout", probe.DefaultLimit, "give up a step on the network after this `time`")
	f.BoolVar(&verbose, "verbose", false, "list all that was looked at")
	f.BoolVar(&asJSON, "json", false, "print an object for programs")
	return cmd
}

// security reads the mount's option.
func security(o *doctor.Options, options string) error {
	name, named := strings.CutPrefix(options, "tlscertname=")
	switch {
	case named && name != "":
		o.Security, o.Identity = doctor.Mutual, name
	case options == "xprtsec=mtls":
		o.Security = doctor.Mutual
	case options == string(doctor.Prefer), options == string(doctor.Mutual), options == string(doctor.Anonymous):
		o.Security = doctor.Security(options)
	default:
		return cli.Usagef("-o %s is none of tls, mtls, xprtsec=tls, xprtsec=mtls, tlscertname=NAME", options)
	}
	if o.Limit < 100*time.Millisecond || o.Limit > time.Minute {
		return cli.Usagef("--timeout %v is not between 100ms and 1m", o.Limit)
	}
	return nil
}

// Print writes a report for a person: a line for each finding, what shows it, and
// what to do.
func Print(out io.Writer, r *doctor.Report, verbose bool) error {
	var b strings.Builder
	if verbose {
		for _, c := range r.Checks {
			fmt.Fprintf(&b, "%-8s %-13s %s", c.State, c.Check, c.Looks)
			if c.Note != "" {
				fmt.Fprintf(&b, " (%s)", c.Note)
			}
			b.WriteByte('\n')
		}
		b.WriteByte('\n')
	}
	for _, level := range []doctor.Level{doctor.Fault, doctor.Warning} {
		for _, f := range r.Findings {
			if f.Level != level {
				continue
			}
			if level == doctor.Warning {
				b.WriteString("warning: ")
			}
			b.WriteString(f.What + "\n")
			if f.Evidence != "" {
				fmt.Fprintf(&b, "    seen: %s\n", f.Evidence)
			}
			if f.Command != "" {
				b.WriteString("    do:   ")
				if f.Where != "" {
					b.WriteString(f.Where + ": ")
				}
				b.WriteString(f.Command + "\n")
			}
		}
	}
	if !r.Faults() {
		b.WriteString("nothing is wrong\n")
		if r.Mount != "" {
			b.WriteString("    do:   " + r.Mount + "\n")
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
