// SPDX-License-Identifier: BSD-3-Clause

// Package certstest is a certification authority in memory, for tests of
// everything that presents or judges certificates, and for demonstrations. It
// issues what a real one would, and, where asked, what a real one should not.
//
//	ca := certstest.MustCA(t, certstest.CAOptions{})
//	host := ca.MustIssue(t, certstest.Options{DNS: []string{"nfs.example"}})
//	host.MustWriteFiles(t, dir) // ca.pem, cert.pem, key.pem
//
// Every function returns an error; those named Must take the test instead. The
// package does not import testing, so a program may use it, and not rpctls's own
// certificate code either, so it can stand witness for that.
package certstest
