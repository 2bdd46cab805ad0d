// SPDX-License-Identifier: BSD-3-Clause

// Package ringconn carries an HTTPS connection by io_uring: connect, and after
// the handshake, where the kernel has the keys, what is read and written. To
// io_uring the bytes are plaintext; TLS is the kernel's.
//
// Package ktls makes the handshake and keeps what io_uring should not decide:
//
//   - A session of which a direction stays in user space goes by [ktls.Conn].
//   - A record that is not data fails a plain receive with EIO and stays where
//     it is (net/tls/tls_sw.c). It is looked at with MSG_PEEK and a control
//     buffer, and then read by [ktls.Conn.Read], which knows what to do with
//     tickets, key updates and alerts, as with the end of the stream.
//   - Before a key update is read, what is sent goes over to ktls.Conn for good:
//     its answer changes the keys, and nothing must be sent beside it then.
//
// What it does not do is count: an AES-GCM key is good for 2^24.5 records (RFC
// 8446 section 5.5), 362 GiB at 16 KiB each, and whoever sends that much on one
// connection calls [ktls.Conn.UpdateKeys] on the way.
package ringconn
