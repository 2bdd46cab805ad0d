// SPDX-License-Identifier: BSD-3-Clause

// Package manifest says what the packages are and what is in them. The deb, the
// rpm and the tar are made from this one list (package assembly), and what was
// made is compared with it (package packaging_test).
package manifest
