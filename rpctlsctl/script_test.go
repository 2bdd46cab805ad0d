// SPDX-License-Identifier: BSD-3-Clause

package rpctlsctl_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rpctls/internal/durable/durabletest"
	"rpctls/rpctlsctl"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"rpctlsctl": func() { os.Exit(rpctlsctl.Main(os.Args[1:], environment())) },
	})
}

// environment takes from the script what a system would give.
func environment() (env rpctlsctl.Env) {
	env = rpctlsctl.System()
	env.PassphraseCost = 10
	env.Patience = 100 * time.Millisecond
	env.KeyGroup = func() int { return 0 }
	env.Hostname = func() string { return "testhost" }
	env.Here = func() ([]string, error) {
		if here := os.Getenv("HERE"); here != "" {
			return strings.Fields(here), nil
		}
		return nil, errors.New("this host has no name")
	}
	env.Addresses = func() ([]string, error) { return strings.Fields(os.Getenv("ADDRESSES")), nil }
	env.Now = func() time.Time {
		now := time.Now()
		if days, err := strconv.Atoi(os.Getenv("DAYS")); err == nil {
			now = now.AddDate(0, 0, days)
		}
		if os.Getenv("YEAR") == "1970" {
			now = time.Unix(4711, 0)
		}
		return now
	}
	if answers, ok := os.LookupEnv("ANSWERS"); ok {
		list := strings.Split(answers, ":")
		env.Passphrase = func(string) (string, error) {
			answer := list[0]
			list = list[1:]
			return answer, nil
		}
	}
	return env
}

// TestScripts runs the command as a shell would. Every behaviour that an
// administrator sees is in one of the scripts.
func TestScripts(t *testing.T) {
	dir := durabletest.TempDir(t)
	if err := os.Chmod(dir, 0o755); err != nil { // for scripts that are not root
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		WorkdirRoot:         dir,
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// Else the race detector sleeps for a second at each exit.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("UNTIL", time.Now().UTC().AddDate(0, 0, 90).Format(time.DateOnly))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"fails": fails,
			"tree":  tree,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "mountns":
				cmd := exec.Command("true")
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
				return os.Geteuid() == 0 && cmd.Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// fails runs a command that must exit with the given code.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails code command [args...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// tree remembers the files below a directory in $NAME, to see what changed:
// "tree NAME dir". With ! it must be what $NAME remembers.
func tree(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] tree name dir")
	}
	out, err := exec.Command("sh", "-c", `cd "$1" && find . -type f -exec sha256sum {} + -o -printf '%p %l\n' | sort | sha256sum`, "sh", ts.MkAbs(args[1])).CombinedOutput()
	if err != nil {
		ts.Fatalf("%v: %s", err, out)
	}
	if neg && ts.Getenv(args[0]) != string(out) {
		ts.Fatalf("something changed in %s", args[1])
	}
	ts.Setenv(args[0], string(out))
}
