// SPDX-License-Identifier: BSD-3-Clause

// Package intake takes in what a CA has issued elsewhere: a certificate, the
// certificates above it and perhaps the private key, in whatever order, files
// and encoding they came. It finds out what belongs to what and says everything
// that is wrong at once, before anything is installed.
package intake
