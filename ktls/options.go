// SPDX-License-Identifier: BSD-3-Clause

package ktls

// An Option changes how a [Conn] uses the kernel. Without any, the kernel
// carries what it can and crypto/tls the rest.
type Option func(*connOptions)

type connOptions struct {
	requireOffload     bool
	noOffload          bool
	tolerateTruncation bool
	zeroCopySendfile   bool
	expectNoPad        bool
}

func collect(opts []Option) connOptions {
	var o connOptions
	for _, f := range opts {
		f(&o)
	}
	return o
}

// RequireOffload makes the handshake fail with an error that is [ErrOffload],
// and close the connection, unless the kernel carries both directions.
func RequireOffload() Option { return func(o *connOptions) { o.requireOffload = true } }

// NoOffload keeps the session in crypto/tls: the same [Conn], without the
// kernel. Together with [RequireOffload] no handshake succeeds.
func NoOffload() Option { return func(o *connOptions) { o.noOffload = true } }

// TolerateTruncation makes Read return [io.EOF] when the peer closes the
// connection without having said so with close_notify, where it is otherwise
// [io.ErrUnexpectedEOF]. Use it where the data itself says where it ends
// (RFC 8446 section 6.1).
func TolerateTruncation() Option { return func(o *connOptions) { o.tolerateTruncation = true } }

// ZeroCopySendfile lets the network card read the page cache itself in
// [Conn.ReadFrom] (TLS_TX_ZEROCOPY_RO, Linux 5.19): a file must not change until
// the peer has acknowledged it, or the peer gets records that do not
// authenticate. It is a promise about files and no more than a hint otherwise:
// the kernel's software TLS, which encrypts into memory of its own, accepts and
// ignores it, and a kernel without it is not told.
func ZeroCopySendfile() Option { return func(o *connOptions) { o.zeroCopySendfile = true } }

// ExpectNoPad says that the peer pads no records (TLS_RX_EXPECT_NO_PAD, Linux
// 6.0, TLS 1.3): the kernel then decrypts straight into the reader's memory. If
// the peer pads all the same, records are decrypted twice and nothing is lost.
// TLS 1.2 has no padding, and a kernel without it is not told.
func ExpectNoPad() Option { return func(o *connOptions) { o.expectNoPad = true } }
