// SPDX-License-Identifier: BSD-3-Clause

// Package forward knows which addresses host names have, from look-ups that were
// made ahead of time: whoever asks a [Table] gets an answer at once, from memory.
// What is not known is looked up by a task of its own, for whoever asks next.
package forward
