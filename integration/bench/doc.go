// SPDX-License-Identifier: BSD-3-Clause

// Package bench measures a server of NFS over TLS whose handshakes are made by
// rpctlssd, beside one that has tlshd, and beside the limit: a bare server
// that needs neither the kernel's upcall nor nfsd (command benchlimit).
//
//	make bench
//	go run ./integration/cmd/bench -kernel 7.2 -only 'rate.4$' -systems limit,rpctls
//
// The parts that run on any machine are here: what the load generator says
// ([Load], command benchload), what one guest measured ([Report]), and the
// table and the document that follow from it. The measuring itself is the test
// TestBench, which has the build tag guest and runs in a VM, where one guest
// plays all hosts. Command bench boots that guest.
//
// All systems stand ready at the same time, each on a host of its own, and
// take turns, so that a machine that is busy for a while disturbs them alike.
// What counts are ratios.
package bench
