// SPDX-License-Identifier: BSD-3-Clause

package man_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rpctls/internal/reason"
	"rpctls/rpctlscd"
	"rpctls/rpctlsctl"
	"rpctls/rpctlsctl/certcmd"
	"rpctls/rpctlssd"
)

var (
	// own is what speaks of the program itself: its usage, and the beginning
	// of each option's description.
	own    = regexp.MustCompile(`(?m)^(?:usage: .*|       rpctls.*|  -.*?(?:  |$))`)
	option = regexp.MustCompile(`(?:^|[\s\[(|,])(--?[a-z][a-z-]*)`)
)

// options are those in a summary, and that for the summary itself.
func options(summary, help string) []string {
	list := []string{help}
	for _, m := range option.FindAllStringSubmatch(strings.Join(own.FindAllString(summary, -1), "\n"), -1) {
		if !slices.Contains(list, m[1]) {
			list = append(list, m[1])
		}
	}
	return list
}

// listed are the options that have an item in the page's lists.
func (p page) listed() (list []string) {
	for _, it := range items(p.lines) {
		for _, f := range after("Fl", it.head) {
			list = append(list, "-"+f)
		}
	}
	return list
}

// mentioned are all options in the page's text and synopsis.
func (p page) mentioned() (list []string) {
	for _, line := range p.lines {
		for _, f := range after("Fl", macro(line)) {
			list = append(list, "-"+f)
		}
	}
	return list
}

// daemonFlags reads from the source what flags the daemons define.
func daemonFlags(t *testing.T) (flags []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../internal/daemon/daemon.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 2 {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		name, ok := call.Args[0].(*ast.BasicLit)
		if x, isIdent := sel.X.(*ast.Ident); ok && isIdent && x.Name == "flags" {
			s, err := strconv.Unquote(name.Value)
			if err != nil {
				t.Fatal(err)
			}
			flags = append(flags, "-"+s)
		}
		return true
	})
	return append(flags, "-help")
}

// usage is what a daemon prints.
func usage(t *testing.T, main func([]string) int) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w
	code := main([]string{"-help"})
	os.Stdout = stdout
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil || code != 0 {
		t.Fatalf("-help: %d, %v", code, err)
	}
	return string(text)
}

func TestDaemons(t *testing.T) {
	for name, main := range map[string]func([]string) int{
		"rpctlscd": rpctlscd.Program().Main,
		"rpctlssd": rpctlssd.Program().Main,
	} {
		p := read(t, name+".8")
		flags := daemonFlags(t)
		compare(t, name, p.file, flags, p.listed())
		summary := options(usage(t, main), "-help")
		compare(t, name, name+" -help", flags, summary)
		for _, f := range p.mentioned() {
			if !slices.Contains(flags, f) {
				t.Errorf("%s: no option %s", p.file, f)
			}
		}
	}
}

// A described command is one in rpctlsctl(8).
type described struct {
	synopsis []string          // flags in its heads
	flags    map[string]string // flags in its list, with the text
}

// commands reads the page: a command is an item that begins with .Ic, its
// options are the items that begin with .Fl after it.
func commands(p page) map[string]*described {
	found := make(map[string]*described)
	var now *described
	begin := func(words []string) {
		var name []string
		for _, w := range words {
			if strings.Trim(w, "abcdefghijklmnopqrstuvwxyz") != "" {
				break // a macro
			}
			name = append(name, w)
		}
		key := strings.Join(name, " ")
		if found[key] == nil {
			found[key] = &described{flags: make(map[string]string)}
		}
		now = found[key]
	}
	head := false // between .It Xo and .Xc
	next := 0
	list := items(p.lines)
	for _, line := range p.lines {
		words := macro(line)
		if len(words) == 0 {
			continue
		}
		var it item
		if words[0] == "It" {
			it, next = list[next], next+1
		}
		switch {
		case words[0] == "Sh", words[0] == "Ss":
			now = nil
		case len(it.head) > 0 && it.head[0] == "Xo":
			head = true
		case len(it.head) > 0 && it.head[0] == "Ic":
			begin(it.head[1:])
			now.synopsis = append(now.synopsis, after("Fl", it.head)...)
		case len(it.head) > 0 && it.head[0] == "Fl" && now != nil:
			for _, f := range after("Fl", it.head) {
				now.flags[f] = it.text
			}
		case words[0] == "Xc":
			head = false
		case head && words[0] == "Ic":
			begin(words[1:])
		case head && now != nil:
			now.synopsis = append(now.synopsis, after("Fl", words)...)
		}
	}
	return found
}

// lookup finds a flag as the page spells it, "o" or "-output".
func lookup(set *pflag.FlagSet, spelled string) *pflag.Flag {
	if name, long := strings.CutPrefix(spelled, "-"); long {
		return set.Lookup(name)
	}
	if len(spelled) != 1 {
		return nil
	}
	return set.ShorthandLookup(spelled)
}

// leaves returns the commands that do something: those without subcommands, and
// those that have options of their own all the same.
func leaves(cmd *cobra.Command) (list []*cobra.Command) {
	if !cmd.HasSubCommands() {
		return []*cobra.Command{cmd}
	}
	own := false
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { own = own || f.Name != "help" && f.Name != "version" })
	if own && cmd.HasParent() {
		list = append(list, cmd)
	}
	for _, sub := range cmd.Commands() {
		if !sub.Hidden {
			list = append(list, leaves(sub)...)
		}
	}
	return list
}

func TestRpctlsctl(t *testing.T) {
	p := read(t, "rpctlsctl.8")
	have := commands(p)
	root := rpctlsctl.Command(rpctlsctl.System())
	var names, all []string
	for _, cmd := range leaves(root) {
		name := strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")
		names = append(names, name)
		d := have[name]
		if d == nil {
			continue // said below
		}
		cmd.InitDefaultHelpFlag()
		local := cmd.LocalNonPersistentFlags()
		local.VisitAll(func(f *pflag.Flag) {
			all = append(all, f.Name)
			if f.Name == "help" {
				return
			}
			text, ok := d.flags["-"+f.Name]
			if !ok {
				t.Errorf("%s: --%s of %s is not described", p.file, f.Name, name)
				return
			}
			if f.Shorthand != "" && d.flags[f.Shorthand] != text {
				t.Errorf("%s: -%s of %s is not described", p.file, f.Shorthand, name)
			}
			if !slices.ContainsFunc(d.synopsis, func(s string) bool { return lookup(local, s) == f }) {
				t.Errorf("%s: --%s is not in the synopsis of %s", p.file, f.Name, name)
			}
			if isDefault := f.Value.Type() != "bool" && !slices.Contains([]string{"", "0", "[]"}, f.DefValue); isDefault &&
				!strings.Contains(text, "As for") && !strings.Contains(text, f.DefValue) {
				t.Errorf("%s: the default of --%s of %s, %s, is not told", p.file, f.Name, name, f.DefValue)
			}
		})
		for _, f := range slices.Concat(d.synopsis, keys(d.flags)) {
			if lookup(local, f) == nil {
				t.Errorf("%s: %s has no -%s", p.file, name, f)
			}
		}
	}
	compare(t, "rpctlsctl", p.file, names, keys(have))

	// Options of all commands of a group.
	cert, _, err := root.Find([]string{"cert"})
	if err != nil {
		t.Fatal(err)
	}
	var persistent, common []string
	cert.PersistentFlags().VisitAll(func(f *pflag.Flag) { persistent = append(persistent, "-"+f.Name) })
	for _, it := range items(p.part(t, "Certificates")) {
		if it.head[0] != "Fl" {
			break
		}
		common = append(common, it.head[1])
	}
	compare(t, "rpctlsctl cert", p.file, persistent, common)
	sessions, _, err := root.Find([]string{"sessions"})
	if err != nil {
		t.Fatal(err)
	}
	sessions.PersistentFlags().VisitAll(func(f *pflag.Flag) { persistent = append(persistent, "-"+f.Name) })
	for _, f := range p.mentioned() {
		name := strings.TrimLeft(f, "-")
		known := slices.Concat(all, persistent, []string{"version"})
		if !slices.Contains(known, name) && !slices.Contains(known, "-"+name) && !slices.Contains([]string{"h", "v", "o"}, name) {
			t.Errorf("%s: no command has %s", p.file, f)
		}
	}
}

func keys[V any](m map[string]V) []string { return slices.Collect(maps.Keys(m)) }

// The fields of --json.
func TestJSON(t *testing.T) {
	p := read(t, "rpctlsctl.8")
	var fields, documented []string
	for _, typ := range []reflect.Type{reflect.TypeFor[certcmd.Entry](), reflect.TypeFor[certcmd.CRL]()} {
		for i := range typ.NumField() {
			if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "" {
				fields = append(fields, name)
			}
		}
	}
	for _, line := range p.part(t, "Output for programs") {
		words := macro(line)
		if i := slices.Index(words, "Dv"); i >= 0 {
			for _, w := range words[i+1:] {
				if w != "," {
					documented = append(documented, w)
				}
			}
		}
	}
	compare(t, "--json", p.file, fields, documented)
}

// The keys of a configuration are those of the reference file, which another
// test compares with what the daemon reads.
var refKey = regexp.MustCompile(`(?m)^#?(?:\[\[([a-z_]+)\]\]|([a-z_]+) = )`)

func TestConfiguration(t *testing.T) {
	for _, name := range []string{"rpctlscd.toml", "rpctlssd.toml"} {
		text, err := os.ReadFile(filepath.Join("../config", name))
		if err != nil {
			t.Fatal(err)
		}
		var keys, documented []string
		table := ""
		for _, m := range refKey.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "" {
				table = m[1] + "."
			} else {
				keys = append(keys, table+m[2])
			}
		}
		p := read(t, name+".5")
		for _, title := range p.sections("Ss") {
			table := ""
			if m := regexp.MustCompile(`\[\[([a-z_]+)\]\]`).FindStringSubmatch(title); m != nil {
				table = m[1] + "."
			}
			for _, it := range items(p.part(t, title)) {
				if it.head[0] == "Ic" {
					documented = append(documented, table+it.head[1])
				}
			}
		}
		compare(t, name, p.file, keys, documented)
	}
}

func TestReasons(t *testing.T) {
	p := read(t, "rpctls.7")
	var reasons, documented []string
	for _, r := range reason.All() {
		reasons = append(reasons, string(r))
	}
	for _, it := range items(p.part(t, "Reasons")) {
		documented = append(documented, after("Cm", it.head)...)
	}
	compare(t, "reasons", p.file, reasons, documented)
}

// The scripts say with --help what they can do.
func TestScripts(t *testing.T) {
	for _, script := range scripts(t) {
		name := filepath.Base(script)
		help, err := exec.Command("sh", script, "--help").Output()
		if err != nil {
			t.Errorf("%s --help: %v", name, err)
			continue
		}
		p := read(t, name+".8")
		have := options(string(help), "--help")
		compare(t, name, p.file, have, p.listed())
		for _, f := range p.mentioned() {
			if !slices.Contains(have, f) {
				t.Errorf("%s: no option %s", p.file, f)
			}
		}
	}
}

// The options of mount.nfstls, its own and those that it passes on.
func TestMountHelper(t *testing.T) {
	help, err := exec.Command("go", "run", "rpctls/cmd/mount.nfstls", "--help").Output()
	if err != nil {
		t.Fatalf("mount.nfstls --help: %v", err)
	}
	p := read(t, "mount.nfstls.8")
	var mount, letters, documented, inSynopsis []string
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+)(?:=NAME)? `).FindAllStringSubmatch(string(help), -1) {
		mount = append(mount, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^  (-[a-zA-Z])(?:, (-[a-zA-Z]))? `).FindAllStringSubmatch(string(help), -1) {
		letters = append(letters, strings.Fields(m[1]+" "+m[2])...)
	}
	for _, it := range items(p.part(t, "DESCRIPTION")) {
		documented = append(documented, after("Cm", it.head)...)
	}
	for _, line := range p.part(t, "SYNOPSIS") {
		for _, f := range after("Fl", macro(line)) {
			if f != "o" && f != "t" { // mount(8)'s
				for _, letter := range f {
					inSynopsis = append(inSynopsis, "-"+string(letter))
				}
			}
		}
	}
	compare(t, "mount.nfstls", p.file, mount, documented)
	compare(t, "mount.nfstls", p.file, letters, inSynopsis)
}

// command is one of ours in a line of an example or of the documentation.
var command = regexp.MustCompile("(?m)(?:^[ \t]*(?:[a-z]*[#$] )?|`|&& )(rpctlsctl|rpctlscd|rpctlssd) ([^`|&\n]*)")

// Commands in examples are ones that the programs understand.
func TestExamples(t *testing.T) {
	texts := make(map[string]string)
	full, _ := pages(t)
	for _, p := range full {
		texts[p.file] = strings.Join(p.displays(), "\n")
	}
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(docs, "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	checked := 0
	for where, text := range texts {
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[2], "…") {
				continue // any of several commands
			}
			checked++
			args := strings.Fields(m[2])
			if m[1] != "rpctlsctl" {
				for _, arg := range args {
					if strings.HasPrefix(arg, "-") && !slices.Contains(daemonFlags(t), arg) {
						t.Errorf("%s: %s: no option %s", where, m[0], arg)
					}
				}
				continue
			}
			root := rpctlsctl.Command(rpctlsctl.System())
			cmd, rest, err := root.Find(args)
			if err == nil && cmd.Runnable() {
				err = cmd.ParseFlags(rest)
			}
			if err == nil && cmd.HasSubCommands() && len(cmd.Flags().Args()) > 0 {
				err = fmt.Errorf("%s has no command %s", cmd.CommandPath(), cmd.Flags().Arg(0))
			}
			if err != nil {
				t.Errorf("%s: %s: %v", where, strings.TrimSpace(m[0]), err)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d commands found", checked)
	}
}
