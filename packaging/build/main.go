// SPDX-License-Identifier: BSD-3-Clause

// Command build makes the packages: deb and rpm for each architecture, and a tar
// with an install script. "make packages" runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"rpctls/packaging/assembly"
)

func main() {
	out := flag.String("out", "dist", "`directory` that is filled")
	version := flag.String("version", "", "version, instead of one made from the commit")
	arches := flag.String("arch", strings.Join(assembly.Arches, ","), "architectures")
	incomplete := flag.Bool("incomplete", false, "leave out what is missing, and say so")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out, *version, strings.Split(*arches, ","), *incomplete); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, version string, arches []string, incomplete bool) error {
	version, at, err := assembly.Stamp(ctx, ".", version)
	if err != nil {
		return err
	}
	b := &assembly.Build{Root: ".", Out: out, Version: version, Time: at, Arches: arches, Incomplete: incomplete, Log: os.Stderr}
	if err := b.Run(ctx); err != nil {
		return err
	}
	fmt.Println("packages of version", version, "are in", out)
	return nil
}
