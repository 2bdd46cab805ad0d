// SPDX-License-Identifier: BSD-3-Clause

// Package doctor finds out why NFS over TLS does not work on this host: a list of
// checks from the kernel to the export. What a check rests on is looked at before
// it, and if something is wrong there the check is not made: it would only name
// another consequence.
package doctor
