// SPDX-License-Identifier: BSD-3-Clause

// Package mountnfs is mount.nfstls, the mount helper: it takes the options tls,
// mtls and tlscertname=NAME beside every option of NFS, and has the real
// mount.nfs do the mount with what the kernel understands, xprtsec=.
//
// It also stands in front of mount.nfs and mount.nfs4, if the package
// rpctls-mount is installed. A mount without any of its options then costs one
// exec(2): the real helper takes over with the arguments as they were.
//
// What it adds, in order:
//
//   - which certificate: rpctlscd says whether it has one for that server, and
//     is told which one if the mount names it (package keyring, or clientask.Choose);
//   - a host name of its own for the helper (uts.go), because the kernel would
//     otherwise let a mount with TLS use the connection of one in clear;
//   - a look at what was mounted: what is not protected as it should be is
//     unmounted again;
//   - if it fails, why: rpctlscd knows.
//
// Nothing falls back to a mount in clear.
package mountnfs
