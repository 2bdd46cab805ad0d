// SPDX-License-Identifier: BSD-3-Clause

package scenario

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A ledger keeps the books of the kernel's handshakes: from its trace events,
// and from marks of the test between them, it knows for each request who
// accepted it, how it ended and what stood in the way. It is told everything
// through one stream of lines, so that the order is the kernel's own.
type ledger struct {
	open     map[string]*request // by the kernel's name for it, until its socket is gone
	requests []*request
	runs     []*runOf
	windows  map[string][]*window // by daemon: when it could not answer
	ticked   float64              // the last tick
	stalls   []window             // when the whole machine stood still
	refused  map[string]int       // by error: what the kernel took back itself
	strange  []string             // what should not be in the stream
}

// A request is one of the kernel's, with times in seconds.
type request struct {
	name               string
	side               string // the daemon that it is for, "" if not known
	submitted          bool
	begin, end         float64
	accepts, dones     int
	completes, cancels int
	thread             int // that accepted it
	status             int // it was completed with
}

// A runOf is one process of a daemon.
type runOf struct {
	daemon  string
	pid     int
	threads []int
	killed  bool
}

// A window is a time in which a daemon could not answer.
type window struct {
	why      string
	from, to float64 // to is 0 while it is open
}

// What a mark begins with, and what it may say. A daemon that is starved has
// no descriptor left.
const (
	markPrefix = "rpctls: "
	markRun    = "run"    // NAME PID THREAD,THREAD,...
	markEnd    = "end"    // NAME PID, which was asked to
	markKill   = "kill"   // NAME PID
	markStop   = "stop"   // NAME PID
	markGo     = "go"     // NAME PID, after stop
	markStarve = "starve" // NAME PID
	markFeed   = "feed"   // NAME PID, after starve
	markNote   = "note"   // and any text
	markTick   = "tick"   // comes ticksPerSecond times in a second
)

const (
	clientDaemon = "rpctlscd"
	serverDaemon = "rpctlssd"
)

// How long the kernel waits for an answer (net/sunrpc/xprtsock.c
// XS_TLS_HANDSHAKE_TO, net/sunrpc/svcsock.c SVC_HANDSHAKE_TO), and what a busy
// machine may add to it.
const (
	clientPatience = 10.0
	serverPatience = 5.0
	patienceSlack  = 3.0
)

// catchUp is how long a daemon that can work again may need for what piled up.
const catchUp = 2.0

// How often it ticks, and how far apart ticks come when the machine itself is
// late: a busy host may let its guests stand still for seconds.
const (
	ticksPerSecond = 4
	stalled        = 1.0
)

func newLedger() *ledger {
	l := &ledger{open: make(map[string]*request), windows: make(map[string][]*window), refused: make(map[string]int)}
	for _, d := range []string{clientDaemon, serverDaemon} {
		l.shut(d, markEnd, 0) // until the first one runs
	}
	return l
}

var (
	traceLine = regexp.MustCompile(`^\s*(.+)-(\d+)\s+\[\d+\]\s+\S+\s+(\d+\.\d+): (\w+): (.*)$`)
	traceArgs = regexp.MustCompile(`(\w+)=(\S+)`)
)

// add enters a line of the trace.
func (l *ledger) add(line string) {
	m := traceLine.FindStringSubmatch(line)
	if m == nil {
		l.strange = append(l.strange, fmt.Sprintf("not an event: %q", line))
		return
	}
	comm, event, text := m[1], m[4], m[5]
	thread, _ := strconv.Atoi(m[2])
	now, _ := strconv.ParseFloat(m[3], 64)
	if event == "tracing_mark_write" {
		if mark, ok := strings.CutPrefix(text, markPrefix); ok {
			l.mark(now, strings.Fields(mark))
		}
		return
	}
	args := make(map[string]string)
	for _, a := range traceArgs.FindAllStringSubmatch(text, -1) {
		args[a[1]] = a[2]
	}
	r := func() *request { return l.request(args["req"], now) }
	switch event {
	case "handshake_submit":
		// The event may come after that of ACCEPT: the kernel notifies first.
		if r := r(); r.submitted {
			l.strange = append(l.strange, fmt.Sprintf("submitted twice: %v", r))
		} else {
			r.submitted, r.side = true, sideOf(comm)
		}
	case "handshake_submit_err":
		l.refused[args["err"]]++
		l.forget(args["req"])
	case "handshake_cmd_accept":
		r := r()
		r.accepts++
		r.thread = thread
	case "handshake_cmd_done":
		r().dones++
	case "handshake_cmd_done_err":
		l.strange = append(l.strange, "DONE for a socket that has no request: "+line)
	case "handshake_complete":
		r := r()
		r.completes++
		r.status, _ = strconv.Atoi(args["status"])
		r.end = now
	case "handshake_cancel":
		r := r()
		r.cancels++
		r.end = now
	case "handshake_destruct":
		// Of sockets whose handshake was before our time there are some, too.
		delete(l.open, args["req"])
	}
}

// request returns the request of that name.
func (l *ledger) request(name string, now float64) *request {
	r := l.open[name]
	if r == nil {
		r = &request{name: name, begin: now}
		l.open[name] = r
		l.requests = append(l.requests, r)
	}
	return r
}

// forget removes a request that never was one.
func (l *ledger) forget(name string) {
	r := l.open[name]
	delete(l.open, name)
	if r != nil && r.accepts+r.dones+r.completes+r.cancels > 0 {
		l.strange = append(l.strange, fmt.Sprintf("refused, but: %v", r))
	}
	l.requests = slices.DeleteFunc(l.requests, func(x *request) bool { return x == r })
}

// sideOf tells from the thread that asks which daemon is meant.
func sideOf(comm string) string {
	switch {
	case strings.HasPrefix(comm, "nfsd"):
		return serverDaemon
	case strings.HasPrefix(comm, "kworker"):
		return clientDaemon
	}
	return ""
}

func (l *ledger) mark(now float64, f []string) {
	switch {
	case len(f) > 0 && f[0] == markNote:
		return
	case len(f) > 0 && f[0] == markTick:
		if l.ticked > 0 && now-l.ticked > stalled {
			l.stalls = append(l.stalls, window{from: l.ticked, to: now})
		}
		l.ticked = now
		return
	}
	if len(f) < 3 {
		l.strange = append(l.strange, fmt.Sprintf("mark %q", f))
		return
	}
	what, daemon := f[0], f[1]
	pid, _ := strconv.Atoi(f[2])
	switch what {
	case markRun:
		run := &runOf{daemon: daemon, pid: pid}
		for _, s := range strings.Split(f[3], ",") {
			n, _ := strconv.Atoi(s)
			run.threads = append(run.threads, n)
		}
		l.runs = append(l.runs, run)
		l.reopen(daemon, now, markEnd, markKill, markStop, markStarve)
	case markGo:
		l.reopen(daemon, now, markStop)
	case markFeed:
		l.reopen(daemon, now, markStarve)
	case markKill:
		for _, r := range l.runs {
			if r.pid == pid {
				r.killed = true
			}
		}
		fallthrough
	default:
		l.shut(daemon, what, now)
	}
}

func (l *ledger) shut(daemon, why string, now float64) {
	l.windows[daemon] = append(l.windows[daemon], &window{why: why, from: now})
}

func (l *ledger) reopen(daemon string, now float64, why ...string) {
	for _, w := range l.windows[daemon] {
		if w.to == 0 && slices.Contains(why, w.why) {
			w.to = now + catchUp
		}
	}
}

// stalledFor returns for how much of the time between from and to the machine
// stood still.
func (l *ledger) stalledFor(from, to float64) (sum float64) {
	for _, w := range l.stalls {
		sum += max(0, min(to, w.to)-max(from, w.from))
	}
	return sum
}

// hindered reports whether a daemon could not answer at some time between from
// and to. Without a daemon's name, either will do.
func (l *ledger) hindered(daemon string, from, to float64) bool {
	for d, windows := range l.windows {
		if daemon != "" && d != daemon {
			continue
		}
		for _, w := range windows {
			if to >= w.from && (w.to == 0 || from < w.to) {
				return true
			}
		}
	}
	return false
}

func (l *ledger) runOfThread(thread int) *runOf {
	for _, r := range slices.Backward(l.runs) {
		if slices.Contains(r.threads, thread) {
			return r
		}
	}
	return nil
}

// pending returns an error as long as the kernel waits for something.
func (l *ledger) pending() error {
	n := 0
	for _, r := range l.requests {
		if r.completes+r.cancels == 0 {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d requests have not ended", n)
	}
	return nil
}

// inFlight counts what a process has accepted and not answered.
func (l *ledger) inFlight(pid int) (n int) {
	for _, r := range l.open {
		if run := l.runOfThread(r.thread); r.accepts > 0 && r.dones == 0 && run != nil && run.pid == pid {
			n++
		}
	}
	return n
}

// submittedSince counts what a daemon was asked after the first n requests.
func (l *ledger) submittedSince(daemon string, n int) (count int) {
	for _, r := range l.requests[min(n, len(l.requests)):] {
		if r.side == daemon {
			count++
		}
	}
	return count
}

// acceptedBy counts what a process accepted, and what of that it did not
// answer.
func (l *ledger) acceptedBy(pid int) (accepted, unanswered int) {
	for _, r := range l.requests {
		if run := l.runOfThread(r.thread); r.accepts > 0 && run != nil && run.pid == pid {
			accepted++
			if r.dones == 0 {
				unanswered++
			}
		}
	}
	return accepted, unanswered
}

// sessions counts the requests for a daemon that ended well.
func (l *ledger) sessions(daemon string) (n uint64) {
	for _, r := range l.requests {
		if run := l.runOfThread(r.thread); r.completes > 0 && r.status == 0 && run != nil && run.daemon == daemon {
			n++
		}
	}
	return n
}

// A tally sums up.
type tally struct {
	asked     int // requests
	accepted  int
	done      int // accepted, and answered
	killed    int // accepted by a process that was killed before it answered
	lost      int // ended by the kernel while it was handed over
	late      int // the kernel had given up before the answer came
	cancelled int // the kernel gave up, with or without an answer later
	refused   int // not even taken
}

func (t tally) String() string {
	return fmt.Sprintf("%d requests: %d accepted = %d done + %d killed; %d lost at ACCEPT, %d given up by the kernel (%d answered later); %d more refused by the kernel",
		t.asked, t.accepted, t.done, t.killed, t.lost, t.cancelled, t.late, t.refused)
}

func (t *tally) add(u tally) {
	t.asked += u.asked
	t.accepted += u.accepted
	t.done += u.done
	t.killed += u.killed
	t.lost += u.lost
	t.late += u.late
	t.cancelled += u.cancelled
	t.refused += u.refused
}

// audit says what became of every request, and what of it must not be. It is
// meant for a kernel at rest.
func (l *ledger) audit() (sum tally, problems []error) {
	for _, s := range l.strange {
		problems = append(problems, errors.New(s))
	}
	for n := range maps.Values(l.refused) {
		sum.refused += n
	}
	for _, r := range l.requests {
		sum.asked++
		run, side := l.runOfThread(r.thread), r.side
		if side == "" && run != nil {
			side = run.daemon
		}
		bad := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("%v: %s", r, fmt.Sprintf(format, args...)))
		}
		killed := false
		switch {
		case r.accepts == 0:
			if r.dones != 0 {
				bad("done, but not accepted")
			}
			if r.completes != 0 {
				// The application gets an error, and a kernel that is not
				// done with submitting (6.12) uses freed memory. An agent
				// must see that there is a descriptor before it asks.
				sum.lost++
				bad("lost at ACCEPT")
			}
		case run == nil:
			bad("accepted by a thread that is no daemon's")
		default:
			sum.accepted++
			if r.accepts > 1 {
				bad("accepted %d times", r.accepts)
			}
			switch {
			case r.dones > 0:
				sum.done++
			case run.killed:
				sum.killed++
				killed = true
			}
			if r.dones != 1 && !killed {
				bad("accepted by %s (%d), which answered %d times", run.daemon, run.pid, r.dones)
			}
		}
		switch ends := r.completes + r.cancels; {
		case ends == 0:
			bad("has not ended")
			continue
		case ends > 1:
			bad("ended %d times", ends)
		}
		if r.cancels > 0 {
			sum.cancelled++
			sum.late += r.dones
			if !killed && !l.hindered(side, r.begin, r.end) && l.stalledFor(r.begin, r.end) == 0 {
				bad("the kernel gave up, and nothing kept the daemon from answering")
			}
		}
		patience := clientPatience
		if side == serverDaemon {
			patience = serverPatience
		}
		if took := r.end - r.begin; took-l.stalledFor(r.begin, r.end) > patience+patienceSlack {
			bad("the kernel waited %.1f s", took)
		}
	}
	return sum, problems
}

func (r *request) String() string {
	return fmt.Sprintf("request %s for %s, %.3f to %.3f s (thread %d; %d ACCEPT, %d DONE, %d completed with %d, %d cancelled)",
		r.name, r.side, r.begin, r.end, r.thread, r.accepts, r.dones, r.completes, r.status, r.cancels)
}

// What the ledger finds right, and what not.
func TestLedger(t *testing.T) {
	const (
		runs     = "test-1 [000] ..... 1.000: tracing_mark_write: rpctls: run rpctlssd 50 50,51\n"
		submit   = "nfsd-9 [000] ..... 10.000: handshake_submit: req=a sk=s\n"
		accept   = "rpctlssd-51 [000] ..... 10.001: handshake_cmd_accept: req=a sk=s fd=7\n"
		done     = "rpctlssd-52 [000] ..... 10.500: handshake_cmd_done: req=a sk=s fd=7\n"
		complete = "rpctlssd-52 [000] ..... 10.501: handshake_complete: req=a sk=s status=0\n"
		cancel   = "nfsd-9 [000] ..... 15.000: handshake_cancel: req=a sk=s\n"
		destruct = "nfsd-9 [000] ..... 15.001: handshake_destruct: req=a sk=s\n"
		again    = "nfsd-9 [000] ..... 16.000: handshake_submit: req=a sk=u\n" +
			"rpctlssd-51 [000] ..... 16.001: handshake_cmd_accept: req=a sk=u fd=7\n" +
			"rpctlssd-51 [000] ..... 16.500: handshake_cmd_done: req=a sk=u fd=7\n" +
			"rpctlssd-51 [000] ..... 16.501: handshake_complete: req=a sk=u status=-110\n"
	)
	mark := func(text string) string {
		return "test-1 [000] ..... 12.000: tracing_mark_write: rpctls: " + text + "\n"
	}
	// Where a line is moved in time, its number says to when.
	at := func(s, line string) string {
		return regexp.MustCompile(` \d+\.\d+: `).ReplaceAllString(line, " "+s+": ")
	}
	for _, tt := range []struct {
		name, trace string
		want        tally
		problem     string // "" for none
	}{
		{"answered", runs + submit + accept + done + complete + destruct, tally{asked: 1, accepted: 1, done: 1}, ""},
		{"accepted before it is said to be there", runs + accept + submit + done + complete, tally{asked: 1, accepted: 1, done: 1}, ""},
		{"the same name again", runs + submit + accept + done + complete + destruct + again, tally{asked: 2, accepted: 2, done: 2}, ""},
		{"no such event", runs + "CPU:0 [LOST 12 EVENTS]\n", tally{}, "not an event"},
		{"never answered", runs + submit + accept, tally{asked: 1, accepted: 1}, "answered 0 times"},
		{"never accepted", runs + submit, tally{asked: 1}, "has not ended"},
		{"answered twice", runs + submit + accept + done + complete + done, tally{asked: 1, accepted: 1, done: 1}, "answered 2 times"},
		{"answered unasked", runs + submit + done + complete, tally{asked: 1, lost: 1}, "not accepted"},
		{"answer for nobody", runs + "rpctlssd-51 [000] ..... 10.500: handshake_cmd_done_err: req=0 sk=s err=-16\n", tally{}, "has no request"},
		{"accepted twice", runs + submit + accept + accept + done + complete, tally{asked: 1, accepted: 1, done: 1}, "accepted 2 times"},
		{"accepted by a stranger", submit + accept + done + complete, tally{asked: 1}, "no daemon's"},
		{"completed and cancelled", runs + submit + accept + done + complete + cancel, tally{asked: 1, accepted: 1, done: 1, late: 1, cancelled: 1}, "ended 2 times"},
		{"given up", runs + submit + cancel, tally{asked: 1, cancelled: 1}, "nothing kept the daemon"},
		{"given up, answered late", runs + submit + accept + cancel + at("15.002", done), tally{asked: 1, accepted: 1, done: 1, late: 1, cancelled: 1}, "nothing kept the daemon"},
		{"killed", runs + submit + accept + mark("kill rpctlssd 50") + cancel, tally{asked: 1, accepted: 1, killed: 1, cancelled: 1}, ""},
		{"another was killed", runs + submit + accept + mark("kill rpctlscd 60") + cancel, tally{asked: 1, accepted: 1, cancelled: 1}, "answered 0 times"},
		{"ended in order without answer", runs + submit + accept + mark("end rpctlssd 50") + cancel, tally{asked: 1, accepted: 1, cancelled: 1}, "answered 0 times"},
		{"stopped meanwhile", runs + submit + accept + mark("stop rpctlssd 50") + cancel + at("15.5", done), tally{asked: 1, accepted: 1, done: 1, late: 1, cancelled: 1}, ""},
		{"stopped long before", runs + at("9.1", mark("stop rpctlssd 50")) + at("9.2", mark("go rpctlssd 50")) + at("12.0", submit) + at("17.0", cancel),
			tally{asked: 1, cancelled: 1}, "nothing kept the daemon"},
		{"the other one is stopped", runs + submit + mark("stop rpctlscd 60") + cancel, tally{asked: 1, cancelled: 1}, "nothing kept the daemon"},
		{"waited for descriptors in vain", runs + at("9.5", mark("starve rpctlssd 50")) + submit + cancel, tally{asked: 1, cancelled: 1}, ""},
		{"lost", runs + at("9.5", mark("starve rpctlssd 50")) + submit + complete, tally{asked: 1, lost: 1}, "lost at ACCEPT"},
		{"refused", runs + strings.Replace(submit, "submit:", "submit_err:", 1), tally{refused: 1}, ""},
		{"given up when the machine stood still", runs + submit + accept + at("11.0", mark("tick")) + cancel + at("15.1", mark("tick")) + at("15.2", done),
			tally{asked: 1, accepted: 1, done: 1, late: 1, cancelled: 1}, ""},
		{"given up although it ticked", runs + submit + accept + at("11.0", mark("tick")) + at("11.9", mark("tick")) + cancel + at("15.2", done),
			tally{asked: 1, accepted: 1, done: 1, late: 1, cancelled: 1}, "nothing kept the daemon"},
		{"the kernel waits too long", runs + submit + mark("stop rpctlssd 50") + at("19.0", cancel), tally{asked: 1, cancelled: 1}, "waited 9.0 s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			l.reopen(clientDaemon, 0, markEnd)
			for line := range strings.Lines(tt.trace) {
				l.add(strings.TrimSuffix(line, "\n"))
			}
			sum, problems := l.audit()
			if sum != tt.want {
				t.Errorf("counted %+v, want %+v", sum, tt.want)
			}
			err := errors.Join(problems...)
			if tt.problem == "" && err != nil || tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem)) {
				t.Errorf("found %v, want %q", err, tt.problem)
			}
			if ended := l.pending() == nil; ended == strings.Contains(fmt.Sprint(err), "has not ended") {
				t.Errorf("pending: %v", l.pending())
			}
			if n := l.submittedSince(serverDaemon, 0); n != strings.Count(tt.trace, "handshake_submit: ") {
				t.Errorf("%d requests submitted", n)
			}
			if n := l.inFlight(50); n != sum.accepted-sum.done {
				t.Errorf("%d requests in flight", n)
			}
			if n := l.sessions(serverDaemon); n > 0 != (strings.Contains(tt.trace, complete) && sum.accepted > 0) {
				t.Errorf("%d sessions", n)
			}
			var all tally
			all.add(sum)
			if accepted, open := l.acceptedBy(50); all != sum || accepted != sum.accepted || open != sum.accepted-sum.done {
				t.Errorf("the process accepted %d and left %d open, in all %v", accepted, open, all)
			}
		})
	}
}
