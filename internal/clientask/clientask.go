// SPDX-License-Identifier: BSD-3-Clause

package clientask

import (
	"errors"
	"net/netip"
	"time"

	"rpctls/internal/control"
)

// Daemon is who answers.
const Daemon = "rpctlscd"

// The requests.
const (
	OpHistory  = "history"
	OpIdentity = "identity"
	OpChoose   = "choose"
)

// maxAddresses bounds the addresses of a server.
const maxAddresses = 32

// A Server is named as a mount names it, with the addresses that it may be
// reached at.
type Server struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Check refuses what is no server.
func (s Server) Check() error {
	if s.Name == "" || len(s.Name) > 255 {
		return errors.New("no name of a server")
	}
	if len(s.Addresses) > maxAddresses {
		return errors.New("too many addresses")
	}
	return nil
}

// Limit drops the addresses that are too many.
func (s Server) Limit() Server {
	s.Addresses = s.Addresses[:min(len(s.Addresses), maxAddresses)]
	return s
}

// Identity asks what a server would get.
type Identity struct {
	Server Server `json:"server"`
}

// A Named is an identity that a mount can name.
type Named struct {
	Name     string    `json:"name"`
	Subject  string    `json:"subject,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Error    string    `json:"error,omitempty"` // why it is of no use
}

// Identities is the answer.
type Identities struct {
	// Default: this host has a certificate for that server.
	Default bool `json:"default"`
	// Named are the identities with names, sorted.
	Named []Named `json:"named,omitempty"`
}

// Choose asks to present an identity, "" for the one that the configuration
// says, to a server until another choice is made. The choice cannot be changed
// while the connection that made it is open, nor while the server is mounted
// with it.
type Choose struct {
	Server   Server `json:"server"`
	Identity string `json:"identity,omitempty"`
}

// Chosen is the answer.
type Chosen struct{}

// ErrConflict is answered to a Choose that contradicts a mount.
func ErrConflict(text string) error {
	return &control.Error{
		Text: text,
		Hint: "this kernel cannot keep two identities for one server apart: unmount the other one first, or use Linux 7.2 or later",
	}
}
