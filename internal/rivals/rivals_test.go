// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rivals

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// controlGroup is the group "notify" of every kernel's controller: its id is
// fixed (GENL_ID_CTRL).
const controlGroup = 16

// TestMembers asks the kernel of this machine, by both ways.
func TestMembers(t *testing.T) {
	c, err := genetlink.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inode uint32
	if cerr := raw.Control(func(fd uintptr) { inode, err = Inode(int(fd)) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	file := func(group uint32) ([]Socket, error) {
		text, err := os.ReadFile("/proc/thread-self/net/netlink")
		if err != nil {
			return nil, err
		}
		return parseFile(text, group)
	}
	for name, members := range map[string]func(uint32) ([]Socket, error){"Members": Members, "sock_diag": diagnosed, "file": file} {
		t.Run(name, func(t *testing.T) {
			list, err := members(controlGroup)
			if name == "sock_diag" && errors.Is(err, unix.ENOENT) {
				t.Skip("this kernel has no netlink_diag")
			}
			if err != nil {
				t.Fatal(err)
			}
			is := func(s Socket) bool { return s.Inode == inode }
			if slices.ContainsFunc(list, is) {
				t.Errorf("a socket that did not join is among %v", list)
			}
			if err := c.JoinGroup(controlGroup); err != nil {
				t.Fatal(err)
			}
			defer c.LeaveGroup(controlGroup)
			if list, err = members(controlGroup); err != nil || !slices.ContainsFunc(list, is) {
				t.Errorf("inode %d is not among %v (%v)", inode, list, err)
			}
			if list, err = members(controlGroup + 1); err != nil || slices.ContainsFunc(list, is) {
				t.Errorf("inode %d is in another group: %v (%v)", inode, list, err)
			}
		})
	}
}

// message is a socket as the kernel describes it.
func message(port, inode uint32, groups ...uint32) []byte {
	b := make([]byte, messageLen)
	b[0], b[2] = unix.AF_NETLINK, unix.NETLINK_GENERIC
	binary.NativeEndian.PutUint32(b[4:], port)
	binary.NativeEndian.PutUint32(b[16:], inode)
	var set [2]uint64
	for _, g := range groups {
		set[(g-1)/64] |= 1 << ((g - 1) % 64)
	}
	e := netlink.NewAttributeEncoder()
	e.Bytes(attrGroups, binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, set[0]), set[1]))
	a, err := e.Encode()
	if err != nil {
		panic(err)
	}
	return append(b, a...)
}

// Groups above 32 are what the file cannot show.
func TestParseMessage(t *testing.T) {
	b := message(7, 8, 1, 64, 65)
	for group, want := range map[uint32]bool{0: false, 1: true, 2: false, 33: false, 63: false, 64: true, 65: true, 66: false, 128: false, 129: false, 1 << 31: false} {
		s, member, err := parseMessage(b, group)
		if err != nil || member != want || s != (Socket{7, 8}) {
			t.Errorf("group %d: %v, %v, %v", group, s, member, err)
		}
	}
	for n := range messageLen {
		if _, _, err := parseMessage(b[:n], 1); err == nil {
			t.Errorf("%d bytes are a socket", n)
		}
	}
	if _, member, err := parseMessage(b[:messageLen], 1); member || err != nil {
		t.Errorf("without groups: %v, %v", member, err)
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add(message(1, 2, 3), uint32(3))
	f.Add(message(1, 2, 128)[:40], uint32(128))
	f.Fuzz(func(t *testing.T, b []byte, group uint32) {
		if s, member, err := parseMessage(b, group); err != nil && (member || s != (Socket{})) {
			t.Errorf("%v, %v and %v", s, member, err)
		}
	})
}

const file = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 16  4194999    00000002 0        0        0     2        0        1001
0000000000000000 0   4194999    00000002 0        0        0     2        0        1002
0000000000000000 16  300        80000000 0        0        0     2        0        1003
0000000000000000 16  0          00000000 0        0        0     2        0        6
`

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(file), uint32(2))
	f.Add([]byte("sk \n16"), uint32(40))
	f.Fuzz(func(t *testing.T, b []byte, group uint32) {
		if list, err := parseFile(b, group); err != nil && list != nil {
			t.Errorf("%v and %v", list, err)
		}
	})
}

func TestParseFile(t *testing.T) {
	for group, want := range map[uint32][]Socket{0: nil, 1: nil, 2: {{4194999, 1001}}, 32: {{300, 1003}}, 33: nil} {
		if got, err := parseFile([]byte(file), group); err != nil || !slices.Equal(got, want) {
			t.Errorf("group %d: %v, %v; want %v", group, got, err, want)
		}
	}
	for _, bad := range []string{"", "something else\n", "sk x\n1 2 3\n", strings.Replace(file, "4194999", "-1", 1), strings.Replace(file, "00000002", "zz", 1)} {
		if list, err := parseFile([]byte(bad), 2); err == nil {
			t.Errorf("%q: %v", bad, list)
		}
	}
}

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := Recorded(path); n != nil {
		t.Errorf("an empty file says %d", n)
	}
	most := slices.Repeat([]uint32{4294967295}, maxRecorded)
	for _, n := range [][]uint32{most, {4294967295}, {7, 8, 9}, {12}} { // some are shorter than those before
		if err := Record(f, n...); err != nil {
			t.Fatal(err)
		}
		if got := Recorded(path); !slices.Equal(got, n) {
			t.Errorf("%d; want %d", got, n)
		}
	}
	if n := Recorded(path + ".no"); n != nil {
		t.Errorf("no file says %d", n)
	}
	for _, bad := range []string{strings.Repeat("9", 100), "1\nx\n", "1\n\n2\n", "0\n", "-1\n", strings.Repeat("1\n", maxRecorded+1)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := Recorded(path); n != nil {
			t.Errorf("%q says %d", bad, n)
		}
	}
}

// A world is what a Watcher sees, and what it says, a word for each line.
type world struct {
	mu      sync.Mutex
	members []Socket
	failure error
	hidden  int // looks for which the sibling has not recorded its socket
	log     bytes.Buffer
}

func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

func (w *world) look() ([]Socket, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hidden--
	return w.members, w.failure
}

func (w *world) ours(s Socket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.Inode == 1 || s.Inode == 2 && w.hidden < 0
}

func (w *world) set(members []Socket, failure error, hidden int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.members, w.failure, w.hidden = members, failure, hidden
}

func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.log.Reset()
	var said []string
	for line := range strings.Lines(w.log.String()) {
		switch {
		case strings.Contains(line, "level=WARN"):
			port := line[strings.Index(line, "netlink_port="):]
			said = append(said, "warn "+strings.Fields(strings.TrimPrefix(port, "netlink_port="))[0])
		case strings.Contains(line, "level=INFO"):
			said = append(said, "gone")
		default:
			said = append(said, "failed")
		}
	}
	return strings.Join(said, ",")
}

// TestWatcher: each change is said once, and what is there for a moment only is
// not.
func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(world)
		ours, sib, rival := Socket{10, 1}, Socket{20, 2}, Socket{30, 3}
		w.set([]Socket{ours}, nil, 0)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- (&Watcher{
				Members: w.look, Ours: w.ours,
				Log: slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})),
			}).Run(ctx)
		}()
		for _, step := range []struct {
			name    string
			members []Socket
			failure error
			hidden  int
			want    string
		}{
			{"alone", []Socket{ours}, nil, 0, ""},
			{"the sibling starts", []Socket{ours, sib}, nil, 1, ""},
			{"a sibling that says nothing", []Socket{ours, sib}, nil, 1000, "warn [20]"},
			{"then does", []Socket{ours, sib}, nil, 0, "gone"},
			{"a rival", []Socket{rival, ours, sib}, nil, 0, "warn [30]"},
			{"still", []Socket{ours, rival}, nil, 0, ""},
			{"listed twice", []Socket{rival, ours, rival}, nil, 0, ""},
			{"two", []Socket{{40, 4}, rival}, nil, 0, `warn "[30`},
			{"nothing can be seen", nil, unix.EPERM, 0, "failed"},
			{"still two", []Socket{{40, 4}, rival}, nil, 0, ""},
			{"none", []Socket{ours, sib}, nil, 0, "gone"},
		} {
			w.set(step.members, step.failure, step.hidden)
			time.Sleep(3 * every)
			synctest.Wait()
			if got := w.said(); got != step.want {
				t.Errorf("%s: said %q, want %q", step.name, got, step.want)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// FuzzRecord: what another program may have written into the file is taken whole
// or not at all.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{"", "1\n", "1\n2\n", "1", "x\n", "4294967296\n", "1\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list := parseRecord(text)
		if len(list) > maxRecorded || slices.Contains(list, 0) {
			t.Errorf("%q: %d", text, list)
		}
	})
}
