// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package keyring

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPayload is the kernel's own bound of a user key, in bytes
// (security/keys/user_defined.c).
const maxPayload = 32767

// userType is the type of the keys that are read and made here.
const userType = "user"

// prefix begins the payload of a key that names an identity. A certificate or a
// private key, in DER or PEM, begins otherwise.
const prefix = "rpctls identity "

// Payload returns the payload that names an identity.
func Payload(name string) []byte { return []byte(prefix + name + "\n") }

// Name returns the identity that a payload names. False: it is something else.
func Name(payload []byte) (string, bool) {
	name, ok := strings.CutPrefix(string(payload), prefix)
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(name, "\n"), true
}

// Read returns the payload of a key of type "user" that belongs to root. It asks
// the kernel and waits for nobody; the caller wipes the result. A key that this
// process may not read is an error that says how to mend it.
func Read(serial int32) ([]byte, error) {
	if serial <= 0 {
		return nil, fmt.Errorf("key %d: not a serial number", serial) // negative ones mean this process's own keyrings
	}
	d, err := describe(serial)
	if err != nil {
		return nil, fmt.Errorf("key %d: %w", serial, explain(err))
	}
	if d.kind != userType {
		return nil, fmt.Errorf("key %d: its type is %q, want %q", serial, bounded(d.kind), userType)
	}
	if d.uid != "0" {
		return nil, fmt.Errorf("key %d: %w (uid %s)", serial, ErrForeign, bounded(d.uid))
	}
	b := make([]byte, maxPayload+1) // one of its own: it may be a private key
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, int(serial), b, 0)
	if err != nil {
		return nil, fmt.Errorf("key %d: %w", serial, explain(err))
	}
	if n > maxPayload { // cannot be
		clear(b)
		return nil, fmt.Errorf("key %d: over %d bytes", serial, maxPayload)
	}
	return b[:n], nil
}

// ErrForeign: a key belongs to somebody who has no say in root's mounts. The
// number may have been that of another key when the mount was made.
var ErrForeign = errors.New("it does not belong to root")

// A description is what the kernel says of a key.
type description struct{ kind, uid, name string }

// describe asks for it. The name is the last part and may hold anything, the other
// parts are the kernel's: a user cannot forge them, as a line of keysFile.
func describe(serial int32) (description, error) {
	text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, int(serial))
	if err != nil {
		return description{}, err
	}
	f := strings.SplitN(text, ";", 5) // type;uid;gid;rights;name
	if len(f) != 5 {
		return description{}, fmt.Errorf("the kernel describes it as %q", bounded(text))
	}
	return description{f[0], f[1], f[4]}, nil
}

// nfsKeyring is the keyring that is looked for: only the kernel makes keyrings
// whose name begins with a dot (security/keys/keyctl.c add_key), and this one is
// root's.
var nfsKeyring = description{"keyring", "0", ".nfs"}

// expect makes sure that a key is what it should be.
func expect(serial int32, want description) error {
	switch got, err := describe(serial); {
	case err != nil:
		return fmt.Errorf("key %d: %w", serial, explain(err))
	case got != want:
		return fmt.Errorf("key %d is not the %s %q of root", serial, want.kind, want.name)
	}
	return nil
}

// ErrDenied: this process may not read a key.
var ErrDenied = errors.New("not permitted to read it; its owner can allow the daemon's user or group (keyctl chown, setperm)")

func explain(err error) error {
	switch err {
	case unix.EACCES:
		return ErrDenied
	case unix.EPERM, unix.ENOSYS:
		return fmt.Errorf("%w (does the service's SystemCallFilter allow keyctl?)", err)
	}
	return err
}

func bounded(s string) string { return s[:min(len(s), 32)] }

// ErrNoKeyring: this kernel's NFS client does not take key serials, or its
// module is not loaded.
var ErrNoKeyring = errors.New("this kernel has no .nfs keyring")

// Rights of a key: its possessor's, its user's, its group's
// (include/linux/key.h). A possessor, which is whoever has .nfs among its
// keyrings, and root may do everything; the daemon's group may look at it and read
// it.
const (
	possessorAll = 0x3f000000
	userAll      = 0x003f0000
	groupRead    = 0x00000300 // view and read
)

// Add makes the key that names an identity, or finds the one that is there, and
// returns its serial number. Processes of group gid may read it. The caller is
// root.
func Add(identity string, gid uint32) (int32, error) {
	type result struct {
		serial int32
		err    error
	}
	done := make(chan result, 1)
	go func() {
		// Not unlocked: the thread's keyring ends with the thread, and nothing
		// else runs with it.
		runtime.LockOSThread()
		serial, err := add(identity, gid)
		done <- result{serial, err}
	}()
	r := <-done
	return r.serial, r.err
}

func add(identity string, gid uint32) (int32, error) {
	nfs, err := find()
	if err != nil {
		return 0, err
	}
	// With .nfs in a keyring of this thread we possess what is in it, which is
	// what it takes to change the rights of a key that was just made.
	if _, err := unix.KeyctlInt(unix.KEYCTL_LINK, int(nfs), unix.KEY_SPEC_THREAD_KEYRING, 0, 0); err != nil {
		return 0, fmt.Errorf("link the .nfs keyring: %w", err)
	}
	// From now on the number cannot become another key's.
	if err := expect(nfs, nfsKeyring); err != nil {
		return 0, err
	}
	// In one step: of two that add the same name at once, the second finds the
	// key of the first, and the serial stays what it is.
	name := "rpctls:" + identity
	serial, err := unix.AddKey(userType, name, Payload(identity), int(nfs))
	if err != nil {
		return 0, fmt.Errorf("add a key to the .nfs keyring: %w", err)
	}
	if err := expect(int32(serial), description{userType, "0", name}); err != nil {
		return 0, err
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_CHOWN, serial, -1, int(gid), 0); err != nil {
		return 0, fmt.Errorf("give key %d to group %d: %w", serial, gid, err)
	}
	if err := unix.KeyctlSetperm(serial, possessorAll|userAll|groupRead); err != nil {
		return 0, fmt.Errorf("set the rights of key %d: %w", serial, err)
	}
	return int32(serial), nil
}

// keysFile lists the keys that this process may see. It is the only way to find
// a keyring that is linked nowhere.
var keysFile = "/proc/keys"

// Supported reports whether the kernel's NFS client takes key serials. The
// module has to be loaded.
func Supported() bool {
	_, err := find()
	return err == nil
}

// find returns the serial of the keyring .nfs.
func find() (int32, error) {
	f, err := os.Open(keysFile)
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrNoKeyring
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return findIn(f, describe)
}

// maxLine bounds a line of keysFile, in bytes.
const maxLine = 64 << 10

// findIn looks for .nfs in keysFile. Anybody can write lines into it: the
// descriptions of keys are printed as they are. A line is therefore no more than a
// reason to ask what the key of that number is.
func findIn(r io.Reader, describe func(int32) (description, error)) (int32, error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		serial, ok := candidate(s.Text())
		if !ok {
			continue
		}
		if d, err := describe(serial); err == nil && d == nfsKeyring {
			return serial, nil
		}
	}
	if err := s.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w", keysFile, err)
	}
	return 0, ErrNoKeyring
}

// candidate reads a line of keysFile: "0a1b2c3d I------     2 perm 1f1f0000     0
// 0 keyring   .nfs: empty" is serial, flags, uses, expiry, rights, uid, gid,
// type, description.
func candidate(line string) (serial int32, ok bool) {
	f := strings.Fields(line)
	if len(f) < 9 || f[5] != "0" || f[7] != "keyring" || f[8] != ".nfs:" && f[8] != ".nfs" {
		return 0, false
	}
	n, err := strconv.ParseUint(f[0], 16, 31)
	if err != nil || n == 0 || strings.ContainsAny(f[1], "RDi") { // revoked, dead, invalidated
		return 0, false
	}
	return int32(n), true
}
