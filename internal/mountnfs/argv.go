// SPDX-License-Identifier: BSD-3-Clause

package mountnfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A commandLine is what mount(8) says to its helpers:
//
//	mount.TYPE spec dir [-sfnv] [-N namespace] [-o options] [-t type.subtype]
//
// as mount.nfs reads it, which knows no -N and no -t, but -r and -w.
type commandLine struct {
	spec, dir string
	flags     []string // "-v", in their order
	options   []string // the values of -o, split
	fake      bool
	verbose   bool
	help      bool
	version   bool
}

// longOptions are those of mount.nfs. Any beginning of one that is no beginning
// of another stands for it, as everywhere in getopt_long(3).
var longOptions = map[string]byte{
	"fake": 'f', "help": 'h', "no-mtab": 'n', "read-only": 'r', "ro": 'r', "verbose": 'v',
	"version": 'V', "read-write": 'w', "rw": 'w', "options": 'o', "sloppy": 's',
}

// parseArgs reads the arguments after the program's name, as getopt_long(3)
// does: options may come after what is none, several may share a hyphen, and "--"
// ends them.
func parseArgs(args []string) (commandLine, error) {
	var c commandLine
	var rest []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			rest = append(rest, args...)
			args = nil
		case strings.HasPrefix(arg, "--"):
			name, value, has := strings.Cut(arg[2:], "=")
			letter, err := longOption(name)
			if err != nil {
				return c, err
			}
			if letter != 'o' {
				if has {
					return c, fmt.Errorf("option --%s takes no value", name)
				}
				c.flag(letter)
				continue
			}
			if !has {
				if len(args) == 0 {
					return c, fmt.Errorf("option --%s needs a value", name)
				}
				value, args = args[0], args[1:]
			}
			c.options = append(c.options, splitOptions(value)...)
		case len(arg) > 1 && arg[0] == '-':
			for i := 1; i < len(arg); i++ {
				if arg[i] != 'o' {
					if !strings.ContainsRune("fhnrVvws", rune(arg[i])) {
						return c, fmt.Errorf("unknown option -%c", arg[i])
					}
					c.flag(arg[i])
					continue
				}
				value := arg[i+1:]
				if value == "" {
					if len(args) == 0 {
						return c, errors.New("option -o needs a value")
					}
					value, args = args[0], args[1:]
				}
				c.options = append(c.options, splitOptions(value)...)
				break
			}
		default:
			rest = append(rest, arg)
		}
	}
	if c.help || c.version {
		return c, nil
	}
	if len(rest) != 2 {
		return c, fmt.Errorf("%d arguments, want a remote target and a directory", len(rest))
	}
	c.spec, c.dir = rest[0], rest[1]
	return c, nil
}

func (c *commandLine) flag(letter byte) {
	switch letter {
	case 'h':
		c.help = true
		return
	case 'V':
		c.version = true
		return
	case 'f':
		c.fake = true
	case 'v':
		c.verbose = true
	}
	c.flags = append(c.flags, "-"+string(letter))
}

func longOption(name string) (byte, error) {
	if letter, ok := longOptions[name]; ok {
		return letter, nil
	}
	var letters []byte
	for long, letter := range longOptions {
		if name != "" && strings.HasPrefix(long, name) && !slices.Contains(letters, letter) {
			letters = append(letters, letter)
		}
	}
	switch len(letters) {
	case 0:
		return 0, fmt.Errorf("unknown option --%s", name)
	case 1:
		return letters[0], nil
	}
	return 0, fmt.Errorf("option --%s is ambiguous", name)
}

// splitOptions splits the value of -o at its commas, but not at those between
// double quotes, which stay where they are (context="a,b"). Empty items are left
// out.
func splitOptions(s string) (items []string) {
	begin, quoted := 0, false
	for i := 0; i <= len(s); i++ {
		if i < len(s) {
			if s[i] == '"' {
				quoted = !quoted
			}
			if s[i] != ',' || quoted {
				continue
			}
		}
		if i > begin {
			items = append(items, s[begin:i])
		}
		begin = i + 1
	}
	return items
}
