// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package nfsd

import (
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// The nfsd family (include/uapi/linux/nfsd_netlink.h).
const (
	familyName    = "nfsd"
	familyVersion = 1
	cmdThreadsGet = 3
	attrThreads   = 1 // u32, one for each pool
)

// ErrAbsent: no NFS server is loaded, or the kernel's has no such command
// (before Linux 6.10).
var ErrAbsent = errors.New("the kernel's NFS server does not answer")

// maxThreads bounds what is believed.
const maxThreads = 1 << 20

// Threads returns how many threads nfsd has in the calling thread's network
// namespace; 0 if it does not run.
func Threads() (int, error) {
	c, err := genetlink.Dial(nil)
	if err != nil {
		return 0, fmt.Errorf("nfsd threads: %w", err)
	}
	defer c.Close()
	f, err := c.GetFamily(familyName)
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrAbsent
	}
	if err != nil {
		return 0, fmt.Errorf("nfsd threads: %w", err)
	}
	replies, err := c.Execute(genetlink.Message{
		Header: genetlink.Header{Command: cmdThreadsGet, Version: familyVersion},
	}, f.ID, netlink.Request)
	if err != nil {
		return 0, fmt.Errorf("nfsd threads: %w", err)
	}
	total := 0
	for _, r := range replies {
		n, err := threads(r.Data)
		if err != nil {
			return 0, fmt.Errorf("nfsd threads: %w", err)
		}
		total += n
	}
	return total, nil
}

// threads adds up the pools in a reply.
func threads(b []byte) (int, error) {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return 0, err
	}
	total := uint64(0)
	for d.Next() {
		if d.Type() == attrThreads {
			total += uint64(d.Uint32())
		}
	}
	if err := d.Err(); err != nil {
		return 0, err
	}
	return int(min(total, maxThreads)), nil
}
