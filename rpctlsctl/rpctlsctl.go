// SPDX-License-Identifier: BSD-3-Clause

package rpctlsctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rpctls/certs/bundle"
	"rpctls/internal/doctor"
	"rpctls/internal/version"
	"rpctls/rpctlsctl/certcmd"
	"rpctls/rpctlsctl/cli"
	"rpctls/rpctlsctl/configcmd"
	"rpctls/rpctlsctl/debugcmd"
	"rpctls/rpctlsctl/doctorcmd"
	"rpctls/rpctlsctl/exportercmd"
	"rpctls/rpctlsctl/policycmd"
	"rpctls/rpctlsctl/probecmd"
	"rpctls/rpctlsctl/sessionscmd"
	"rpctls/rpctlsctl/statuscmd"
)

// daemonGroup is the group of the daemons, see packaging/systemd.
const daemonGroup = "rpctls"

// patience is how long to wait for another rpctlsctl.
const patience = 10 * time.Second

// Env is what the commands need of their surroundings.
type Env = certcmd.Env

// System returns the surroundings as they are.
func System() Env {
	return Env{
		Now:            time.Now,
		Built:          version.Built(),
		Patience:       patience,
		KeyGroup:       keyGroup,
		Here:           certcmd.Here,
		Addresses:      certcmd.Addresses,
		Hostname:       hostname,
		Passphrase:     askPassphrase,
		PassphraseCost: bundle.DefaultCost,
	}
}

// Main runs the program with the arguments after its name and returns the exit
// code.
func Main(args []string, env Env) int {
	// The daemons have -version, and so has this.
	if len(args) == 1 && args[0] == "-version" {
		args = []string{"version"}
	}
	return cli.Run(root(env), args, os.Stderr)
}

func root(env Env) *cobra.Command {
	cmd := cli.Group("rpctlsctl", "manage NFS over TLS on this host",
		certcmd.New(env), configcmd.New(), debugcmd.New(), doctorcmd.New(doctor.This()), exportercmd.New(), statuscmd.History(), policycmd.New(env.Now),
		probecmd.New(), sessionscmd.New(), statuscmd.New(), versionCmd(), completionCmd())
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.Version = version.String()
	cmd.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	return cmd
}

func versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), cmd.Root().Name(), version.String())
			return err
		},
	}
}

func completionCmd() *cobra.Command {
	shells := map[string]func(*cobra.Command, io.Writer) error{
		"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":  (*cobra.Command).GenZshCompletion,
		"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	}
	return &cobra.Command{
		Use:       "completion {bash|zsh|fish}",
		Short:     "print a script that completes commands in a shell",
		Args:      cli.Args(1, 1, "bash, zsh or fish"),
		ValidArgs: []string{"bash", "fish", "zsh"},
		RunE: func(cmd *cobra.Command, args []string) error {
			generate, ok := shells[args[0]]
			if !ok {
				return cli.Usagef("%q is none of bash, zsh, fish", args[0])
			}
			return generate(cmd.Root(), cmd.OutOrStdout())
		},
	}
}

// keyGroup returns the daemons' group, if this process can give files to it.
func keyGroup() int {
	if os.Geteuid() != 0 {
		return 0
	}
	group, err := user.LookupGroup(daemonGroup)
	if err != nil {
		return 0
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return 0
	}
	return gid
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "this host"
	}
	return host
}

func askPassphrase(prompt string) (string, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", cli.Hint(errors.New("there is no terminal to ask for the passphrase"), "--passphrase-file names a file with it")
	}
	fmt.Fprint(os.Stderr, prompt)
	line, err := term.ReadPassword(fd)
	fmt.Fprintln(os.Stderr)
	defer clear(line)
	return string(line), err
}
