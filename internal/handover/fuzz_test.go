// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package handover

import (
	"bytes"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rpctls/upcall"
)

// FuzzReceive lets a giver send any packet with any number of descriptors: the
// request and one descriptor come out, or an error and none, and what does not
// come out is closed.
func FuzzReceive(f *testing.F) {
	good, err := sample().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, byte(1))
	f.Add(good, byte(0))
	f.Add(good, byte(2))
	f.Add(good, byte(100)) // more than there is room for
	f.Add(append(bytes.Clone(good), make([]byte, maxPacket)...), byte(1))
	f.Add([]byte(nil), byte(1))
	f.Add([]byte(nil), byte(0))
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	taker, giver := ends[0], ends[1]
	f.Fuzz(func(t *testing.T, packet []byte, count byte) {
		const most = 253 // SCM_MAX_FD: the kernel sends no more
		if len(packet) > 2*maxPacket || count > most {
			t.Skip()
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		sent := slices.Repeat([]int{int(w.Fd())}, int(count))
		var rights []byte
		if count > 0 {
			rights = unix.UnixRights(sent...)
		}
		_, _, err = giver.WriteMsgUnix(packet, rights, nil)
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		fd, got, err := receive(taker)
		if (err == nil) != (fd >= 0) {
			t.Errorf("descriptor %d with error %v", fd, err)
		}
		if err == nil {
			again, err := got.encode()
			if err != nil || !bytes.Equal(packet, again) || count != 1 {
				t.Errorf("%d descriptors with %x, encoded again %x, %v", count, packet, again, err)
			}
			unix.Close(fd)
		}
		// The pipe has an end only when every copy of it is closed.
		if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if n, err := r.Read(b[:]); n != 0 || os.IsTimeout(err) {
			t.Errorf("a descriptor is still open: %d, %v", n, err)
		}
	})
}

// FuzzEncode: what is within the bounds arrives as it was, what is not is
// refused.
func FuzzEncode(f *testing.F) {
	f.Add(uint32(upcall.Server), uint32(upcall.X509), "nfs.example.com", uint32(1500), []byte{1, 2, 3}, uint32(5), uint64(1)<<60)
	f.Add(uint32(0), uint32(0), "", uint32(0), []byte(nil), uint32(0), uint64(0))
	f.Add(uint32(1), uint32(1), "", uint32(maxMillis), make([]byte, 2*maxIdentities), uint32(0), uint64(0))
	f.Add(uint32(1), uint32(1), "", uint32(maxMillis+1), make([]byte, 2*maxIdentities+2), uint32(0), uint64(0))
	f.Fuzz(func(t *testing.T, role, mode uint32, name string, millis uint32, serials []byte, keyring uint32, deadline uint64) {
		want := request{
			Attributes: upcall.Attributes{
				Role: upcall.Role(role), AuthMode: upcall.AuthMode(mode), PeerName: name,
				Timeout: time.Duration(millis) * time.Millisecond, Keyring: keyring,
			},
			deadline: deadline,
		}
		for i, b := range serials {
			if i%2 == 0 {
				want.KeyPairs = append(want.KeyPairs, upcall.KeyPair{Certificate: int32(b) << 24, PrivateKey: -int32(b)})
			} else {
				want.PeerIdentities = append(want.PeerIdentities, uint32(b)<<24)
			}
		}
		within := len(name) <= maxName && millis <= maxMillis && len(want.KeyPairs) <= maxPairs && len(want.PeerIdentities) <= maxIdentities
		b, err := want.encode()
		if (err == nil) != within {
			t.Fatalf("within bounds %t, error %v", within, err)
		}
		if err != nil {
			return
		}
		got, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
