// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/guest"
	"rpctls/integration/internal/protocol"
)

var (
	only    = flag.String("bench.only", "", "measure only the figures that match this `pattern`")
	systems = flag.String("bench.systems", "", "measure only these `systems`, with commas")
	rounds  = flag.Int("bench.rounds", 3, "measure every figure this many `times`")
	quick   = flag.Bool("bench.quick", false, "less of everything: to see that it works")
)

// A figure is measured for every system in turn, in every round.
type figure struct {
	name    string
	systems []System
	run     func(*world, *testing.T, System) Record
	most    int // rounds; 0 is as many as asked for
	// apart has all rounds of one system before those of the next: mounts
	// that hang may never come back, and the kernel's client has locks that
	// all hosts share.
	apart bool
	// alone needs no hosts: run is called without a world, before there is one.
	alone bool
}

var (
	everyone = Systems()
	agents   = []System{Rpctls, TLSHD} // those with an upcall
)

// figures in the order in which they are measured. Those that need no hosts come
// before there are any; then memory: that of a daemon that has done nothing is
// asked for. Mounts that may hang come last.
func figures() []figure {
	all := []figure{
		{name: "ktls.memory", systems: []System{UserTLS, KernelTLS}, alone: true, run: transferOf("memory")},
		{name: "ktls.file", systems: Libraries(), alone: true, run: transferOf("file")},
		{name: "memory.idle", systems: agents, most: 1, run: (*world).idleMemory},
		{name: "rate.1", systems: everyone, run: loads("-clients=1", total(60))},
		{name: "rate.4", systems: everyone, run: loads("-clients=4", total(160))},
		{name: "storm.200x32", systems: everyone, run: loads("-clients=32", total(200))},
		{name: "storm.600x96", systems: everyone, run: loads("-clients=96", total(600))},
		{name: "memory.storm", systems: agents, most: 1, run: (*world).stormMemory},
		{name: "queue", systems: agents, run: (*world).queue},
		{name: "stall.quiet", systems: agents, most: 2, run: (*world).quiet},
	}
	for _, clients := range []int{24, 96} {
		for _, from := range []string{"same", "other"} {
			all = append(all, figure{
				name: fmt.Sprintf("stall.%d.%s", clients, from), systems: agents, most: 2,
				run: func(w *world, t *testing.T, s System) Record {
					defer w.stall(t, s, clients, from == "other")()
					return w.quiet(t, s)
				},
			})
		}
	}
	disturbed := func(kill bool, run func(*world, *testing.T, System, bool) Record) func(*world, *testing.T, System) Record {
		return func(w *world, t *testing.T, s System) Record { return run(w, t, s, kill) }
	}
	return append(all,
		figure{name: "restart.connections", systems: agents, run: disturbed(false, (*world).pacedConnections)},
		figure{name: "kill.connections", systems: agents, run: disturbed(true, (*world).pacedConnections)},
		figure{name: "nfs", systems: everyone, run: (*world).bulk},
		figure{name: "restart.mounts", systems: agents, most: 2, apart: true, run: disturbed(false, (*world).mounts)},
		figure{name: "kill.mounts", systems: agents, most: 2, apart: true, run: disturbed(true, (*world).mounts)},
	)
}

// TestBench measures, and writes what it has measured to /results/bench.json
// after every figure. What fails is the measuring; no figure is good or bad.
func TestBench(t *testing.T) {
	guest.RequireVM(t)
	pattern, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	var mem unix.Sysinfo_t
	if err := unix.Sysinfo(&mem); err != nil {
		t.Fatal(err)
	}
	// On a machine whose udev looks at every device, the processor's own cryptography
	// is there: all that follows is by the kernel's TLS.
	guest.LoadModule(t, "aesni_intel", "tls")
	version, _, _ := tlshd(t)
	report := &Report{
		Release: guest.Release(), TLSHD: version, CPUs: runtime.NumCPU(),
		MemoryMiB: int(uint64(mem.Totalram) * uint64(mem.Unit) >> 20), Threads: threads, Rounds: *rounds,
	}
	var w *world
	for _, f := range figures() {
		if !pattern.MatchString(f.name) {
			continue
		}
		if w == nil && !f.alone {
			w = newWorld(t)
			for _, s := range everyone {
				w.await(t, s)
			}
		}
		began := time.Now()
		for _, turn := range f.turns(*rounds) {
			if *systems != "" && !slices.Contains(strings.Split(*systems, ","), string(turn.System)) || w != nil && w.hung[turn.System] {
				continue
			}
			rec := f.run(w, t, turn.System)
			rec.Figure, rec.System, rec.Round = f.name, turn.System, turn.Round
			report.Records = append(report.Records, rec)
			t.Logf("%s %s: %s", f.name, turn.System, rec.text())
		}
		t.Logf("%s took %.1fs", f.name, time.Since(began).Seconds())
		text, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(protocol.ResultsDir, ReportFile), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// turns returns who is measured when: only System and Round are set.
func (f figure) turns(rounds int) []Record {
	if f.most > 0 {
		rounds = min(rounds, f.most)
	}
	var all []Record
	for round := range rounds {
		for i := range f.systems {
			// Nobody is always first.
			all = append(all, Record{System: f.systems[(i+round)%len(f.systems)], Round: round})
		}
	}
	if f.apart {
		slices.SortStableFunc(all, func(a, b Record) int {
			return slices.Index(f.systems, a.System) - slices.Index(f.systems, b.System)
		})
	}
	return all
}

func total(n int) string {
	if *quick {
		n = max(n/4, 10)
	}
	return fmt.Sprintf("-total=%d", n)
}

// loads is a figure that is one run of benchload.
func loads(args ...string) func(*world, *testing.T, System) Record {
	return func(w *world, t *testing.T, s System) Record { return Record{Load: w.load(t, s, args...)} }
}

// quiet is a real client that connects every now and then, whether or not the
// connection before has come to its end: one that must wait does not keep the
// next from being counted.
func (w *world) quiet(t *testing.T, s System) Record {
	n := 12
	if *quick {
		n /= 2
	}
	count := strconv.Itoa(n)
	return Record{Load: w.load(t, s, "-clients="+count, "-total="+count, "-interval="+(time.Duration(n)*200*time.Millisecond).String())}
}

// queue watches a storm: tracing costs, so the storm is not used otherwise.
func (w *world) queue(t *testing.T, s System) Record {
	trace := guest.Trace(t, "handshake:handshake_submit", "handshake:handshake_submit_err", "handshake:handshake_cmd_accept")
	l := w.load(t, s, "-clients=32", total(200))
	trace.Stop(t)
	q, err := ParseQueue(trace.Lines(t))
	if err != nil {
		t.Fatal(err)
	}
	return Record{Load: l, Queue: q}
}

// transferOf is one run of benchktls, on loopback.
func transferOf(source string) func(*world, *testing.T, System) Record {
	return func(_ *world, t *testing.T, s System) Record {
		t.Helper()
		mebibytes := "32"
		if *quick {
			mebibytes = "4"
		}
		ctx, cancel := context.WithTimeout(context.Background(), loadLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, program("benchktls"), "-system", string(s), "-source", source, "-mib", mebibytes)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, said.String())
		}
		x := new(Transfer)
		if err := json.Unmarshal(out, x); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
		return Record{Transfer: x}
	}
}

// memory returns what a host that is both client and server needs: both of our
// daemons, or the one tlshd, whose two instances here share pages.
func (w *world) memory(t *testing.T, s System, during func()) (peak float64) {
	t.Helper()
	services := w.services[s]
	if s == TLSHD {
		second := services[1]
		services = services[:1]
		systemctl(t, "stop", second.unit)
		defer systemctl(t, "start", second.unit)
	}
	sample := func() {
		sum := 0.0
		for _, service := range services {
			kib, err := service.pss()
			if err != nil {
				t.Error(err)
			}
			sum += kib / 1024
		}
		peak = max(peak, sum)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		during()
	}()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		sample()
		select {
		case <-tick.C:
		case <-done:
			tick.Stop()
			return peak
		}
	}
}

func (w *world) idleMemory(t *testing.T, s System) Record {
	return Record{Values: map[string]float64{"mib": w.memory(t, s, func() {})}}
}

func (w *world) stormMemory(t *testing.T, s System) Record {
	var l *Load
	peak := w.memory(t, s, func() { l = w.load(t, s, "-clients=96", total(600)) })
	return Record{Load: l, Values: map[string]float64{"mib": peak}}
}

// disturb restarts or kills services so many times, every 2 s and first after
// 1 s, unless it is told to end.
func disturb(t *testing.T, kill bool, times int, services ...*service) (end func() int) {
	for _, s := range services {
		// What earlier kills have taught the service manager is forgotten:
		// it may wait longer and longer before it starts a service again.
		systemctl(t, "reset-failed", s.unit)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	n := 0
	wg.Go(func() {
		for tick := time.NewTimer(time.Second); n < times; n++ {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			tick.Reset(2 * time.Second)
			if err := restart(kill, services...); err != nil {
				t.Error(err)
			}
		}
	})
	return func() int {
		close(stop)
		wg.Wait()
		return n
	}
}

// pacedConnections are those of two clients that begin one every 100 ms, for
// 4 s in which the server's daemon is restarted twice.
func (w *world) pacedConnections(t *testing.T, s System, kill bool) Record {
	end := disturb(t, kill, 2, w.services[s][0])
	l := w.load(t, s, "-clients=2", "-total=80", "-interval=100ms")
	n := end()
	w.await(t, s)
	return Record{Load: l, Values: map[string]float64{"restarts": float64(n)}}
}

// mountLimit is when a mount that has not come to an end is given up.
const mountLimit = 30 * time.Second

// mounts mounts and unmounts for some seconds while the daemons of both sides
// are restarted. Meanwhile something is written to another mount, whose
// connection is cut every now and then.
func (w *world) mounts(t *testing.T, s System, kill bool) Record {
	h := w.mounter[s]
	source := w.server[s].FQDN() + ":" + exportSecret
	// Another minor version is another connection, and by its address it is
	// known which of them to cut. (tlshd refuses an address in place of the
	// name.)
	address := w.server[s].IPv6().String()
	standing, passing := "/mnt/standing-"+string(s), "/mnt/passing-"+string(s)
	if err := guest.TryMount(t, h, source, standing, "vers=4.1,proto=tcp6,xprtsec=mtls", mountLimit); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	limit := 6 * time.Second
	if *quick {
		limit /= 2
	}
	writer := guest.Start(t, h, "writer-"+string(s), []string{
		program("benchload"), "-write", standing + "/written", "-interval=20ms", "-duration=" + limit.String(),
	})
	begin := time.Now()
	over := func() bool { return time.Since(begin) > limit }
	end := disturb(t, kill, int(limit/(2*time.Second)), w.services[s]...)
	cuts := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(700 * time.Millisecond); !over(); <-tick.C {
			cuts += guest.CutConnections(t, h, "dst ["+address+"]:2049")
		}
	})
	l := new(Load)
	for !over() && !w.hung[s] {
		at := time.Now()
		err := guest.TryMount(t, h, source, passing, "vers=4.2,proto=tcp,xprtsec=mtls", mountLimit)
		l.Add(time.Since(at), "mount", err)
		switch {
		case err == nil:
			guest.Unmount(t, h, passing)
		case errors.Is(err, guest.ErrHung):
			w.hung[s] = true
		}
	}
	l.Finish(time.Since(begin))
	restarts := end()
	wg.Wait()
	values := map[string]float64{"restarts": float64(restarts), "cuts": float64(cuts)}
	written := new(Load)
	select {
	case <-writer.Done():
		if err := json.Unmarshal([]byte(writer.Output()), written); err != nil {
			t.Fatalf("writer: %v: %s", err, writer.Output())
		}
		guest.Unmount(t, h, standing)
	case <-time.After(hungLimit):
		// With both daemons at rest this mount should have gone on.
		values["hung"] = 1
		w.hung[s] = true
		t.Logf("%s: the mount hangs", s)
		_ = h.Command(context.Background(), "umount", "-f", standing).Run()
		_ = h.Command(context.Background(), "umount", "-l", standing).Run()
	}
	return Record{Load: l, Written: written, Values: values}
}

// hungLimit is ample: the kernel's own attempts to connect are seconds apart.
const hungLimit = 30 * time.Second

// bulk writes and reads one large file; Limit is NFS in the clear.
func (w *world) bulk(t *testing.T, s System) Record {
	h, server, export, options := w.mounter[s], s, exportSecret, "vers=4.2,xprtsec=mtls"
	if s == Limit {
		h, server, export, options = w.client, Rpctls, exportPlain, "vers=4.2,xprtsec=none"
	}
	mebibytes := 32
	if *quick {
		mebibytes = 8
	}
	// The first to touch memory waits for the host to provide it.
	w.warm.Do(func() {
		name := filepath.Join(exportPlain, "warm")
		if err := errors.Join(os.WriteFile(name, make([]byte, 4*mebibytes<<20), 0o644), os.Remove(name)); err != nil {
			t.Fatal(err)
		}
	})
	dir := "/mnt/bulk-" + string(s)
	guest.Mount(t, h, w.server[server].FQDN()+":"+export, dir, options)
	defer guest.Unmount(t, h, dir)
	name := filepath.Join(dir, "bulk")
	block := make([]byte, 1<<20)
	values := make(map[string]float64)
	timed := func(what string, f func() error) {
		at := time.Now()
		guest.Within(t, guest.FileLimit, what, f)
		values[what] = float64(mebibytes) / time.Since(at).Seconds()
	}
	timed("write", func() error {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		for range mebibytes {
			if _, err := f.Write(block); err != nil {
				return err
			}
		}
		return errors.Join(f.Sync(), f.Close())
	})
	guest.DropCaches(t)
	timed("read", func() error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(f, int64(mebibytes)<<20), block)
		return err
	})
	if err := os.Remove(name); err != nil {
		t.Error(err)
	}
	return Record{Values: values}
}

// text is for the log.
func (r Record) text() string {
	var parts []string
	if l := r.Load; l != nil {
		parts = append(parts, fmt.Sprintf("%v in %.2fs, %.1f/s, p50 %.1f ms, p99 %.1f ms", l, l.Elapsed, l.Rate(), Percentile(l.Latencies, 50), Percentile(l.Latencies, 99)))
		parts = append(parts, l.Examples...)
	}
	if l := r.Written; l != nil {
		parts = append(parts, fmt.Sprintf("written %v, longest %.1f ms", l, Percentile(l.Latencies, 100)))
		parts = append(parts, l.Examples...)
	}
	if q := r.Queue; q != nil {
		parts = append(parts, fmt.Sprintf("waited p50 %.2f ms, p99 %.2f ms, max %.2f ms, %d refused, %d left", Percentile(q.Waits, 50), Percentile(q.Waits, 99), Percentile(q.Waits, 100), q.Refused, q.Left))
	}
	if x := r.Transfer; x != nil {
		parts = append(parts, x.String())
	}
	for what, v := range r.Values {
		parts = append(parts, fmt.Sprintf("%s %.2f", what, v))
	}
	return strings.Join(parts, "; ")
}
