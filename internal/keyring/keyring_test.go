// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package keyring

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// As Linux 7.2 prints it.
const keys = `009a6ec5 I--Q---     1 perm 1f3f0000     0 65534 keyring   _uid_ses.0: 1
0b1c7b4f I------     1 perm 1f0b0000     0     0 keyring   .builtin_trusted_keys: 2
1ab8d5c3 I------     1 perm 1f1f0000     0     0 keyring   .nfs: empty
2de03b3c I--Q---     2 perm 3f030000     0     0 user      .nfs: 5
`

// all answers that every key is .nfs.
func all(int32) (description, error) { return nfsKeyring, nil }

func TestFind(t *testing.T) {
	if got, err := findIn(strings.NewReader(keys), all); err != nil || got != 0x1ab8d5c3 {
		t.Errorf("%x, %v", got, err)
	}
	for what, text := range map[string]string{
		"nothing":               "",
		"another user's":        strings.ReplaceAll(keys, "1f1f0000     0     0", "1f1f0000  1000     0"),
		"revoked":               strings.ReplaceAll(keys, "1ab8d5c3 I------", "1ab8d5c3 IR-----"),
		"a longer name":         strings.ReplaceAll(keys, ".nfs: empty", ".nfsd: empty"),
		"no serial":             strings.ReplaceAll(keys, "1ab8d5c3", "-1ab8d5c"),
		"a serial that is none": strings.ReplaceAll(keys, "1ab8d5c3", "ffffffff"),
	} {
		if got, err := findIn(strings.NewReader(text), all); !errors.Is(err, ErrNoKeyring) {
			t.Errorf("%s: %x, %v", what, got, err)
		}
	}
}

// forged is a key's description that looks like a line about another key.
func forged(serial int32) string {
	return fmt.Sprintf("x\n%08x I------     1 perm 1f1f0000     0     0 keyring   .nfs: empty", serial)
}

// Lines that others have written do not hide the one that is true.
func TestFindPassesOverForgeries(t *testing.T) {
	text := forged(0x100) + "\n" + forged(0x101) + "\n" + forged(0x102) + "\n" + forged(0x103) + "\n" + keys
	what := map[int32]description{
		0x100: {"keyring", "1000", ".nfs"}, 0x101: {"user", "0", ".nfs"}, 0x102: {"keyring", "0", ".nfs\n"},
		0x1ab8d5c3: nfsKeyring,
	}
	got, err := findIn(strings.NewReader(text), func(serial int32) (description, error) {
		d, ok := what[serial]
		if !ok {
			return d, unix.ENOKEY
		}
		return d, nil
	})
	if err != nil || got != 0x1ab8d5c3 {
		t.Errorf("%x, %v", got, err)
	}
}

// stranger is set in the process that plays another user. It makes a keyring of
// its own, and a key whose description says that it is .nfs, says their serials, and
// keeps them until its input ends.
const stranger = "KEYRING_TEST_STRANGER"

func TestMain(m *testing.M) {
	if os.Getenv(stranger) != "" {
		if err := forge(); err != nil {
			fmt.Println("error:", err)
		}
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func forge() error {
	runtime.LockOSThread()
	trap, err := unix.KeyctlJoinSessionKeyring("trap")
	if err != nil {
		return err
	}
	mine, err := unix.AddKey(userType, "rpctls:alice", Payload("alice"), trap)
	if err != nil {
		return err
	}
	lie, err := unix.AddKey(userType, forged(int32(trap)), []byte("x"), trap)
	if err != nil {
		return err
	}
	for _, serial := range []int{trap, mine, lie} {
		if err := unix.KeyctlSetperm(serial, 0x3f3f3f3f); err != nil {
			return err
		}
	}
	_, err = fmt.Println(trap, mine)
	return err
}

// Whatever an ordinary user does with keys of his, root neither takes his keyring
// for .nfs nor reads his key.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another user is played by root")
	}
	exe, err := os.ReadFile("/proc/self/exe") // where it is may be closed to him
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "stranger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "stranger")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, exe, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env, cmd.Dir = []string{stranger + "=1"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var trap, mine int32
	if _, err := fmt.Sscan(line, &trap, &mine); err != nil {
		if strings.Contains(line, "not implemented") || strings.Contains(line, "not permitted") {
			t.Skip("no keys here: " + line)
		}
		t.Fatalf("%q", line)
	}
	listed, err := os.ReadFile(keysFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(listed), forged(trap)) {
		t.Fatalf("the forged line is not there:\n%s", listed)
	}
	if got, err := find(); got == trap || err != nil && !errors.Is(err, ErrNoKeyring) {
		t.Errorf("his keyring %d is .nfs: %d, %v", trap, got, err)
	}
	if b, err := Read(mine); !errors.Is(err, ErrForeign) {
		t.Errorf("his key was read: %q, %v", b, err)
	}
	if err := expect(mine, description{userType, "0", "rpctls:alice"}); err == nil {
		t.Error("his key is taken for ours")
	}
}

// A key of root's is read.
func TestRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("keys are read that belong to root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	serial, err := unix.AddKey(userType, "a;b;c", []byte("hello"), unix.KEY_SPEC_THREAD_KEYRING)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skip("no keys here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Read(int32(serial)); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	if err := expect(int32(serial), description{userType, "0", "a;b;c"}); err != nil {
		t.Error(err)
	}
	if err := expect(int32(serial), description{userType, "0", "a"}); err == nil {
		t.Error("by another name")
	}
}

func TestName(t *testing.T) {
	if name, ok := Name(Payload("alice")); !ok || name != "alice" {
		t.Errorf("%q, %v", name, ok)
	}
	for _, s := range []string{"", "\x30\x82", "-----BEGIN CERTIFICATE-----", "rpctls"} {
		if name, ok := Name([]byte(s)); ok {
			t.Errorf("%q is %q", s, name)
		}
	}
}

// Serials that do not stand for a key of others are not asked for.
func TestReadRefuses(t *testing.T) {
	for _, serial := range []int32{0, -1, -3} {
		if _, err := Read(serial); err == nil {
			t.Errorf("%d was read", serial)
		}
	}
}

func FuzzKeys(f *testing.F) {
	f.Add(keys)
	f.Fuzz(func(t *testing.T, s string) {
		if serial, err := findIn(strings.NewReader(s), all); (err == nil) != (serial > 0) {
			t.Errorf("%d, %v", serial, err)
		}
	})
}
