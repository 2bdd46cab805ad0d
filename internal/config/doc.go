// SPDX-License-Identifier: BSD-3-Clause

// Package config reads the daemons' configuration files: TOML, strict, with
// drop-ins, every error located as file:line:column. What the keys mean is
// defined by the package of each daemon; the keys both have are here.
package config
