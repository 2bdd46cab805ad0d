// SPDX-License-Identifier: BSD-3-Clause

package nfsclient

import (
	"errors"
	"fmt"
)

// A Status is an nfsstat4 (RFC 8881 section 15.1).
type Status uint32

// Those that this package or its callers look for.
const (
	OK              Status = 0
	ErrPerm         Status = 1
	ErrNoEnt        Status = 2
	ErrAccess       Status = 13
	ErrNotDir       Status = 20
	ErrDelay        Status = 10008
	ErrWrongSec     Status = 10016
	ErrMinorVersion Status = 10021
)

var statusNames = map[Status]string{
	OK: "NFS4_OK", ErrPerm: "NFS4ERR_PERM", ErrNoEnt: "NFS4ERR_NOENT", 5: "NFS4ERR_IO", ErrAccess: "NFS4ERR_ACCESS",
	ErrNotDir: "NFS4ERR_NOTDIR", 22: "NFS4ERR_INVAL", 63: "NFS4ERR_NAMETOOLONG", 70: "NFS4ERR_STALE",
	10001: "NFS4ERR_BADHANDLE", 10004: "NFS4ERR_NOTSUPP", 10005: "NFS4ERR_TOOSMALL", 10006: "NFS4ERR_SERVERFAULT",
	ErrDelay: "NFS4ERR_DELAY", 10013: "NFS4ERR_GRACE", ErrWrongSec: "NFS4ERR_WRONGSEC", 10018: "NFS4ERR_RESOURCE",
	10019: "NFS4ERR_MOVED", 10020: "NFS4ERR_NOFILEHANDLE", ErrMinorVersion: "NFS4ERR_MINOR_VERS_MISMATCH",
	10036: "NFS4ERR_BADXDR", 10044: "NFS4ERR_OP_ILLEGAL", 10052: "NFS4ERR_BADSESSION", 10063: "NFS4ERR_SEQ_MISORDERED",
}

// String returns the name in RFC 8881, or "NFS4ERR(N)".
func (s Status) String() string {
	if n, ok := statusNames[s]; ok {
		return n
	}
	return fmt.Sprintf("NFS4ERR(%d)", uint32(s))
}

// A StatusError is a server's refusal.
type StatusError struct {
	Op     string // "LOOKUP"
	Path   string // up to where the server followed it; "/" is its root
	Status Status
}

// Error names operation, path and status as the RFC does.
func (e *StatusError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Status) }

// StatusOf returns the server's status in an error.
func StatusOf(err error) (Status, bool) {
	if se, ok := errors.AsType[*StatusError](err); ok {
		return se.Status, true
	}
	return OK, false
}
