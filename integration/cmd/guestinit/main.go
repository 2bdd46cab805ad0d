// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "run":
		err = runPayload()
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve()
	case os.Getpid() == 1:
		err = boot()
	default:
		fmt.Fprintln(os.Stderr, "guestinit: is for guests of package vm only")
		os.Exit(2)
	}
	if err != nil {
		say("%v", err)
	}
	powerOff()
}

// say writes a line on the console, which the host shows if the guest fails.
func say(format string, args ...any) {
	line := "guestinit: " + fmt.Sprintf(format, args...) + "\n"
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteString(line)
		f.Close()
		return
	}
	_, _ = os.Stderr.WriteString(line)
}

// powerOff ends the guest without sync(2), which may hang on an NFS mount
// whose server is gone; the disk is a snapshot that nobody will read.
func powerOff() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// Not reached, unless somebody ran us outside a guest without the right.
	time.Sleep(5 * time.Second)
	os.Exit(1)
}
