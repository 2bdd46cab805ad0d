// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"rpctls/integration/bench"
)

// writeFile appends a line to a file again and again, each time as far as the
// server, until the time is over or ctx ends. It has a process of its own
// because whoever has a file open on a mount that hangs cannot start programs:
// exec closes the file, and that waits.
func (o *options) writeFile(ctx context.Context) *bench.Load {
	sum := &bench.Load{Clients: 1}
	begin := time.Now()
	for n := 0; ctx.Err() == nil && (o.total == 0 || n < o.total) && (o.duration == 0 || time.Since(begin) < o.duration); n++ {
		at := time.Now()
		err := appendLine(o.write, n)
		sum.Add(time.Since(at), "write", err)
		sleep(ctx, time.Until(at.Add(o.interval)))
	}
	sum.Finish(time.Since(begin))
	return sum
}

func appendLine(name string, n int) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, n)
	return errors.Join(err, f.Sync(), f.Close())
}
