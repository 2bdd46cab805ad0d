// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"testing"
)

func TestProgress(t *testing.T) {
	var said []string
	w := new(options).stdout(func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
	const text = "=== RUN   TestBench\n    bench_test.go:1: rate.1 limit: 60 of 60 in 1.56s\n    bench_test.go:2: rate.1 took 5.4s\n--- PASS: TestBench (9s)\n"
	// Writes need not end where lines do.
	for _, b := range []byte(text) {
		if _, err := io.WriteString(w, string(rune(b))); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"rate.1 took 5.4s"}; !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
}
