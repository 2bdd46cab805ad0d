// SPDX-License-Identifier: BSD-3-Clause

package rpc

// SetXID makes the next call take the XID after xid.
func (c *Client) SetXID(xid uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.xid = xid
}

// Pending returns how many calls wait for a reply.
func (c *Client) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}
