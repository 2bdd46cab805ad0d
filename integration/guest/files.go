// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FileLimit is how long a helper lets a file be written or read.
const FileLimit = 5 * time.Minute

// A Sum is the SHA-256 of a file's contents.
type Sum [sha256.Size]byte

func (s Sum) String() string { return fmt.Sprintf("%x", s[:8]) }

// WriteRandom writes a file of pseudo-random data that follows from the seed
// and brings it to the disk, or to the server.
func WriteRandom(t testing.TB, name string, seed uint64, mebibytes int) Sum {
	t.Helper()
	var sum Sum
	Within(t, FileLimit, "write "+name, func() (err error) {
		sum, err = writeRandom(name, seed, int64(mebibytes)<<20)
		return err
	})
	return sum
}

func writeRandom(name string, seed uint64, size int64) (Sum, error) {
	f, err := os.Create(name)
	if err != nil {
		return Sum{}, err
	}
	hash := sha256.New()
	w := bufio.NewWriterSize(f, 1<<20)
	_, err = io.CopyN(io.MultiWriter(w, hash), randomReader(seed), size)
	if err = errors.Join(err, w.Flush(), f.Sync(), f.Close()); err != nil {
		return Sum{}, err
	}
	return Sum(hash.Sum(nil)), nil
}

func randomReader(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// SumFile reads a file.
func SumFile(t testing.TB, name string) Sum {
	t.Helper()
	var sum Sum
	Within(t, FileLimit, "read "+name, func() error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		hash := sha256.New()
		if _, err := io.Copy(hash, f); err != nil {
			return err
		}
		sum = Sum(hash.Sum(nil))
		return nil
	})
	return sum
}

// CheckFile reads a file that is not in any cache and compares it.
func CheckFile(t testing.TB, name string, want Sum) {
	t.Helper()
	DropCaches(t)
	if got := SumFile(t, name); got != want {
		t.Fatalf("%s: contents are %v, want %v", name, got, want)
	}
}

// DropCaches makes the kernel forget the contents of files, so that they are
// read again from where they are.
func DropCaches(t testing.TB) {
	t.Helper()
	Within(t, CommandLimit, "drop caches", func() error {
		unix.Sync()
		return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
	})
}
