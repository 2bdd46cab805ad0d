// SPDX-License-Identifier: BSD-3-Clause

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	OK     = 0
	Failed = 1
	Usage  = 2 // the command line is wrong
)

// A usageError is a fault in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usagef returns an error for which the program exits with Usage.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// An exitError asks for an exit code of its own.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// Exit returns err with an exit code other than Failed, for a command that
// documents one. A nil err says nothing and still exits with the code.
func Exit(code int, err error) error { return exitError{err, code} }

// Code returns the exit code that an error stands for.
func Code(err error) int {
	if err == nil {
		return OK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return Usage
	}
	if e, ok := errors.AsType[exitError](err); ok {
		return e.code
	}
	return Failed
}

// A hinted error knows what to do about it.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// Hint adds to an error what to do about it. It returns nil for nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// hintOf returns what to do about an error, or "". What is particular to a
// command has been added by it; here is what can befall any of them.
func hintOf(err error) string {
	if h, ok := errors.AsType[hinted](err); ok {
		return h.hint
	}
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0: // root knows better
		return "run it as root"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on that file system, then do it again"
	case errors.Is(err, syscall.EROFS):
		return "that file system is mounted read-only"
	}
	return ""
}

// Found is the error of a command that has found something wrong, and said so.
var Found error = found{}

type found struct{}

func (found) Error() string   { return "something is wrong" }
func (found) Lines() []string { return nil }

// A Lister is an error of several lines.
type Lister interface {
	error
	Lines() []string
}

// Run executes the command with the arguments and returns the exit code.
func Run(root *cobra.Command, args []string, stderr io.Writer) int {
	root.SetArgs(args)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd, err := root.ExecuteC()
	if err == nil {
		return OK
	}
	if exit, ok := errors.AsType[exitError](err); ok && exit.error == nil {
		return exit.code
	}
	text := []string{err.Error()}
	if l, ok := errors.AsType[Lister](err); ok {
		text = l.Lines()
	}
	for _, line := range text {
		fmt.Fprintf(stderr, "%s: %s\n", root.Name(), strings.ReplaceAll(line, "\n", "; "))
	}
	_, isUsage := errors.AsType[usageError](err)
	hint := hintOf(err)
	if hint == "" && isUsage {
		hint = cmd.CommandPath() + " --help"
	}
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return Code(err)
}

// Group makes a command that has only subcommands. Without one, or with an
// unknown one, it is used wrongly.
func Group(use, short string, subcommands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Usagef("unknown command %q", args[0])
			}
			return Usagef("no command")
		},
	}
	cmd.AddCommand(subcommands...)
	return cmd
}

// Args makes a wrong number of arguments a usage error: at least min, and at
// most max unless that is negative.
func Args(min, max int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < min || max >= 0 && len(args) > max {
			return Usagef("%d arguments, want %s", len(args), what)
		}
		return nil
	}
}

// JSON writes v for programs.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
