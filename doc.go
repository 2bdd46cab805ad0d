// SPDX-License-Identifier: BSD-3-Clause

// Package rpctls is the root of the project and holds only the rules that its
// tests keep. The programs are in cmd, what they are made of in the packages
// beside it; README.md says what it is for.
package rpctls
