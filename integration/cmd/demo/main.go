// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/vm"
)

//go:embed demo.sh
var script []byte

func main() {
	kernel := flag.String("kernel", "7.2", "the kernel to boot: "+strings.Join(vm.Kernels(), ", "))
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := demo(ctx, *kernel)
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// demo boots the kernel and runs the script in it.
func demo(ctx context.Context, kernel string) (exitCode int, err error) {
	began := time.Now()
	progress := func(format string, args ...any) {
		fmt.Printf("[%3.0fs] %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, err := os.MkdirTemp("", "rpctls-demo-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	progress("building rpctlscd and rpctlssd")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=auto", "-o", dir+"/", "rpctls/cmd/rpctlscd", "rpctls/cmd/rpctlssd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build: %w\n%s", err, out)
	}
	payload, err := certificates()
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"rpctlscd", "rpctlssd"} {
		payload["bin/"+name] = vm.Source{Path: filepath.Join(dir, name)}
	}
	payload["bin/demo.sh"] = vm.Source{Data: script, Mode: 0o755}
	progress("preparing kernels and a root file system (a minute or two, the first time)")
	if _, err := vm.Prepare(ctx, progress); err != nil {
		return 0, err
	}
	progress("booting Linux %s in a VM", kernel)
	result, err := vm.Run(ctx, vm.Options{
		Kernel: kernel, Command: []string{"demo.sh"}, Payload: payload, Stdout: os.Stdout, Timeout: 3 * time.Minute,
	})
	if err != nil {
		return 0, err
	}
	progress("done: the VM took %.1f s", result.Total.Seconds())
	return result.ExitCode, nil
}

// certificates makes a CA and an identity for each side.
func certificates() (map[string]vm.Source, error) {
	ca, err := certstest.NewCA(certstest.CAOptions{CommonName: "demo CA"})
	if err != nil {
		return nil, err
	}
	files := map[string]vm.Source{"certs/ca.pem": {Data: ca.PEM(), Mode: 0o644}}
	for name, o := range map[string]certstest.Options{
		"server": {CommonName: "nfs.example.com", DNS: []string{"nfs.example.com"}},
		"client": {CommonName: "client1.example.com", DNS: []string{"client1.example.com"}},
	} {
		o.NotAfter = time.Now().AddDate(0, 0, 90)
		pair, err := ca.Issue(o)
		if err != nil {
			return nil, err
		}
		key, err := pair.KeyPEM(certstest.PKCS8)
		if err != nil {
			return nil, err
		}
		files["certs/"+name+".pem"] = vm.Source{Data: pair.CertPEM(), Mode: 0o644}
		files["certs/"+name+".key"] = vm.Source{Data: key, Mode: 0o600}
	}
	return files, nil
}
