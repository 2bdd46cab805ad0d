// SPDX-License-Identifier: BSD-3-Clause

package rpctlsctl

import "github.com/spf13/cobra"

// Command returns the command with all its subcommands, for what has to agree
// with it: the manual page.
func Command(env Env) *cobra.Command {
	cmd := root(env)
	cmd.InitDefaultHelpCmd()
	return cmd
}
