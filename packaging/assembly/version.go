// SPDX-License-Identifier: BSD-3-Clause

package assembly

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// first is what the next release will be called as long as there is none.
const first = "0.1.0"

// Debian and rpm agree on how these are ordered: "~" is before the end of a
// version, "+" after it. No "-": that is where a revision begins.
var versionForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*([~+.][0-9A-Za-z]+)*$`)

// A Commit is what a version is made from.
type Commit struct {
	Hash  string
	Time  time.Time
	Tag   string // the last release, "v1.2.3", if any
	After int    // commits since it
	Dirty bool
}

// Version names what is built: the release, or the time of its commit so that
// later ones are higher, and its hash.
func (c Commit) Version() string {
	stamp := "git" + c.Time.UTC().Format("20060102150405") + "." + c.Hash[:7]
	if c.Dirty {
		stamp += ".dirty"
	}
	release := strings.TrimPrefix(c.Tag, "v")
	switch {
	case release == "":
		return first + "~" + stamp
	case c.After == 0 && !c.Dirty:
		return release
	default:
		return release + "+" + stamp
	}
}

// Head describes the commit that is checked out in dir.
func Head(ctx context.Context, dir string) (Commit, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("git %s: %s", args[0], strings.TrimSpace(string(exit.Stderr)))
		}
		return strings.TrimSpace(string(out)), err
	}
	out, err := git("show", "-s", "--format=%H %ct", "HEAD")
	if err != nil {
		return Commit{}, err
	}
	hash, seconds, _ := strings.Cut(out, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return Commit{}, fmt.Errorf("git show: %w", err)
	}
	c := Commit{Hash: hash, Time: time.Unix(unix, 0).UTC()}
	if out, err = git("status", "--porcelain"); err != nil {
		return Commit{}, err
	}
	c.Dirty = out != ""
	// No tag is no error.
	if out, err := git("describe", "--tags", "--long", "--match", "v[0-9]*"); err == nil {
		parts := strings.Split(out, "-")
		if len(parts) == 3 {
			c.Tag = parts[0]
			if c.After, err = strconv.Atoi(parts[1]); err != nil {
				return Commit{}, fmt.Errorf("git describe: %w", err)
			}
		}
	}
	return c, nil
}

// Stamp chooses the version and the time for a build in dir: what is given, in
// an argument or as SOURCE_DATE_EPOCH, or the commit's.
func Stamp(ctx context.Context, dir, version string) (string, time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	var at time.Time
	if epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return "", at, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		at = time.Unix(seconds, 0).UTC()
	}
	if version == "" || epoch == "" {
		c, err := Head(ctx, dir)
		if err != nil {
			return "", at, fmt.Errorf("no version: %w (give one, and SOURCE_DATE_EPOCH)", err)
		}
		if version == "" {
			version = c.Version()
		}
		if epoch == "" {
			at = c.Time
		}
	}
	if !versionForm.MatchString(version) {
		return "", at, fmt.Errorf("version %q: want digits with dots, then perhaps ~word or +word", version)
	}
	return version, at, nil
}
