// SPDX-License-Identifier: BSD-3-Clause

package certcmd

var (
	FromHosts        = fromHosts
	PassingAddresses = passingAddresses
)
