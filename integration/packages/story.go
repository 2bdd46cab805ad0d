// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rpctls/integration/vm"
)

// Debs are the packages of one build.
type Debs []string

// Build makes the packages as "make packages" does, and returns those that the
// guests install. root is the repository.
func Build(ctx context.Context, root, out, version string) (Debs, error) {
	cmd := exec.CommandContext(ctx, "go", "run", "./packaging/build", "-out", out, "-version", version, "-arch", "amd64")
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build packages: %w\n%s", err, text)
	}
	debs, err := filepath.Glob(filepath.Join(out, "deb/amd64/*.deb"))
	if err == nil && len(debs) != 2 {
		err = fmt.Errorf("build packages: %d debs: %v", len(debs), debs)
	}
	return debs, err
}

// Options say what the story is told with.
type Options struct {
	Kernel   string
	Old, New Debs // two builds
	Short    bool // only the chapters in which the kernel's version makes a difference
	Results  string
	Log      vm.Logf
}

// A story is told by three machines.
type story struct {
	Options
	network                  *vm.Network
	units                    string // directory of links for /etc/systemd/system
	server, client1, client2 *host

	plainSaid []string // what plain mounts said before there was anything of ours
}

// Tell tells the story on one kernel: chapters that follow from each other,
// since booting is dear. After a chapter that failed the rest would say little.
// The machines live no longer than ctx.
func Tell(ctx context.Context, t *testing.T, o Options) {
	s := &story{Options: o, network: vm.NewNetwork(), units: t.TempDir()}
	if err := enabledUnits(s.units); err != nil {
		t.Fatal(err)
	}
	defer s.close(t)
	s.boot(ctx, t)
	s.tell(t, chapters)
}

type chapter struct {
	name  string
	tell  func(*story, *testing.T)
	short bool // part of the short story, too
}

var chapters = []chapter{
	{name: "plain before", tell: (*story).plainBefore, short: true},
	{name: "install", tell: (*story).install, short: true},
	{name: "plain beside", tell: (*story).plainBeside},
	{name: "wrong", tell: (*story).wrong},
	{name: "six commands", tell: (*story).sixCommands, short: true},
	{name: "metrics", tell: (*story).metrics, short: true},
	{name: "twice", tell: (*story).twice},
	{name: "second client", tell: (*story).secondClient},
	{name: "reboot", tell: (*story).reboot, short: true},
	{name: "upgrade", tell: (*story).upgrade},
	{name: "renew", tell: (*story).renew},
	{name: "tlscertname", tell: (*story).certName, short: true},
	{name: "revoke", tell: (*story).revoke},
	{name: "remove", tell: (*story).remove},
	{name: "external CA", tell: (*story).externalCA},
}

func (s *story) tell(t *testing.T, chapters []chapter) {
	for _, chapter := range chapters {
		if s.Short && !chapter.short {
			continue
		}
		began := time.Now()
		ok := t.Run(chapter.name, func(t *testing.T) { chapter.tell(s, t) })
		t.Logf("%s: %.0fs", chapter.name, time.Since(began).Seconds())
		if !ok {
			s.evidence(t)
			return
		}
	}
}

// all are the machines. A short story does without the second client.
func (s *story) all() []*host {
	if s.Short {
		return []*host{s.server, s.client1}
	}
	return []*host{s.server, s.client1, s.client2}
}

// boot boots them, all at once.
func (s *story) boot(ctx context.Context, t *testing.T) {
	if err := os.MkdirAll(s.Results, 0o755); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.server = s.newHost(ctx, t, "server", "nfs.example.com", 1) })
	wg.Go(func() { s.client1 = s.newHost(ctx, t, "client1", "client1.example.com", 11) })
	if !s.Short {
		wg.Go(func() { s.client2 = s.newHost(ctx, t, "client2", "client2.example.com", 12) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, h := range s.all() {
		s.running(t, h)
	}
}

// close turns them off. What their kernels complained about fails the test.
func (s *story) close(t *testing.T) {
	for _, h := range s.all() {
		if h == nil {
			continue
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		h.transcript.Close()
	}
}

// running waits until a boot is complete. That a service failed fails the test.
func (s *story) running(t *testing.T, h *host) {
	t.Helper()
	if o := h.run(t, "systemctl is-system-running --wait"); strings.TrimSpace(o.Stdout) != "running" {
		t.Errorf("%s is %s\n%s", h.name, o.Stdout, h.run(t, "systemctl --failed; journalctl -b -p warning").Text)
	}
}

// evidence puts the logs of the machines beside the transcripts.
func (s *story) evidence(t *testing.T) {
	for _, h := range s.all() {
		for name, command := range map[string]string{
			"journal": "journalctl -b -o short-monotonic --no-hostname",
			"kernel":  "dmesg",
			"mounts":  "cat /proc/self/mountinfo; ss -tnie; exportfs -v; find /etc/rpctls -ls",
		} {
			o, err := h.Run(command, nil, 30*time.Second)
			if err != nil {
				t.Log(err)
			}
			if err := os.WriteFile(filepath.Join(s.Results, h.name+"."+name), []byte(o.Text), 0o644); err != nil {
				t.Log(err)
			}
		}
	}
	t.Logf("transcripts and journals are in %s", s.Results)
}

// recorded returns all that was on the network while f ran.
func (s *story) recorded(t *testing.T, f func()) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.network.Record(&b); err != nil {
		t.Fatal(err)
	}
	f()
	if err := s.network.Record(nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
