// SPDX-License-Identifier: BSD-3-Clause

// Package logging makes the daemons' logger: structured entries in the journal
// when stderr is the journal, one line of text on stderr otherwise.
package logging
