// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"path/filepath"
	"strconv"
	"testing"

	"rpctls/ktls"
)

// toolCases are what other people's programs do after the handshake.
var toolCases = []conformanceCase{
	{name: "openssl s_server updates keys", versions: only13, roles: onlyClient, run: testOpensslServerUpdates},
	{name: "openssl s_client updates keys", versions: only13, roles: onlyServer, run: testOpensslClientUpdates},
	{name: "gnutls-cli updates keys", versions: only13, roles: onlyServer, run: testGnutlsUpdates},
	{name: "openssl s_server is asked to update keys", versions: only13, roles: onlyClient, run: testOpensslIsAsked},
	{name: "gnutls-serv is asked to update keys", versions: only13, roles: onlyClient, run: testGnutlsIsAsked},
	{name: "openssl s_server's tickets", roles: onlyClient, run: testOpensslTickets},
	{name: "gnutls-serv's tickets", roles: onlyClient, run: testGnutlsTickets},
	{name: "openssl s_client resumes", roles: onlyServer, run: testOpensslResumes},
	{name: "gnutls-cli resumes", roles: onlyServer, run: testGnutlsResumes},
	{name: "openssl s_client ends", roles: onlyServer, run: testOpensslEnds},
	{name: "gnutls-cli ends", roles: onlyServer, run: testGnutlsEnds},
	{name: "openssl s_server is killed", roles: onlyClient, run: testOpensslKilled},
}

// TestTools is the table of what needs programs beside the test.
func TestTools(t *testing.T) {
	each(t, func(t *testing.T, m mode) {
		for _, s := range []suite{suites[0], suites[4]} {
			for _, role := range bothRoles {
				t.Run(versionName(s.version)+"/"+role.String(), func(t *testing.T) {
					runTable(t, m, s.version, role, toolCases)
				})
			}
		}
	})
}

// updatesBy is a conversation with a program that updates its keys by commands.
func (x *trial) updatesBy(ours *ktls.Conn, p *program, commands ...string) {
	x.Helper()
	r := bufio.NewReader(ours)
	hear := func(want string) error {
		line, err := r.ReadString('\n')
		if err == nil && line != want+"\n" {
			return errors.New("it says " + strconv.Quote(line) + ", want " + want)
		}
		return err
	}
	p.line(x, "before")
	x.must(hear("before"))
	for i, command := range commands {
		p.line(x, command)
		p.line(x, "after")
		if !x.rekeys() {
			x.is(hear("after"), ktls.ErrRekey)
			return
		}
		x.must(hear("after"))
		answer := "answer-" + strconv.Itoa(i)
		x.must(writeAll(ours, []byte(answer+"\n")))
		p.says(x, answer)
	}
}

func testOpensslServerUpdates(x *trial) {
	port := x.freePort()
	p := x.start(x.opensslServer(port, "-naccept", "1"), speaking)
	x.listening(port)
	x.updatesBy(x.dial(port), p, "k", "K", "K", "k")
}

func testOpensslClientUpdates(x *trial) {
	port, accept := x.listen()
	p := x.start(x.opensslClient(port), speaking)
	x.updatesBy(accept(), p, "k", "K", "K", "k")
}

func testGnutlsUpdates(x *trial) {
	port, accept := x.listen()
	p := x.start(x.gnutlsClient(port, "--inline-commands", "--logfile=/dev/null"), speaking)
	x.updatesBy(accept(), p, "^rekey1^", "^rekey^", "^rekey^", "^rekey1^")
}

func testOpensslIsAsked(x *trial) {
	port := x.freePort()
	p := x.start(x.opensslServer(port, "-quiet", "-naccept", "1"))
	x.listening(port)
	ours := x.dial(port)
	if !x.updates(ours) {
		return
	}
	for i := range 4 {
		x.must(ours.UpdateKeys(i%2 == 0))
		x.must(writeAll(ours, []byte("there")))
		x.must(expect(p.out, []byte("there")))
		x.must(writeAll(p.in, []byte("back")))
		x.must(expect(ours, []byte("back")))
	}
}

func testGnutlsIsAsked(x *trial) {
	port := x.freePort()
	x.start(x.gnutlsServer(port, "--echo", "--quiet"), quietly)
	x.listening(port)
	ours := x.dial(port)
	if !x.updates(ours) {
		return
	}
	for i := range 4 {
		x.must(ours.UpdateKeys(i%2 == 0))
		x.must(writeAll(ours, []byte("there and back\n")))
		x.must(expect(ours, []byte("there and back\n")))
	}
}

// Any number of tickets, and each connection resumes the one before.
func testOpensslTickets(x *trial) {
	for _, n := range []int{0, 1, 2, 7} {
		x.part(strconv.Itoa(n), func(x *trial) {
			x.keepTickets()
			port := x.freePort()
			p := x.start(x.opensslServer(port, "-quiet", "-naccept", "3", "-num_tickets", strconv.Itoa(n)))
			x.listening(port)
			for i := range 3 {
				ours := x.dial(port)
				x.must(writeAll(ours, []byte("there")))
				x.must(expect(p.out, []byte("there")))
				x.must(writeAll(p.in, []byte("back")))
				x.must(expect(ours, []byte("back")))
				want := i > 0 && (n > 0 || x.suite.version == tls.VersionTLS12)
				if got := ours.ConnectionState().DidResume; got != want {
					x.Errorf("connection %d resumed: %t, want %t", i, got, want)
				}
				x.must(ours.Close())
			}
		})
	}
}

func testGnutlsTickets(x *trial) {
	x.keepTickets()
	port := x.freePort()
	x.start(x.gnutlsServer(port, "--echo", "--quiet"), quietly)
	x.listening(port)
	for i := range 3 {
		ours := x.dial(port)
		x.must(writeAll(ours, []byte("there and back\n")))
		x.must(expect(ours, []byte("there and back\n")))
		if got := ours.ConnectionState().DidResume; got != (i > 0) {
			x.Errorf("connection %d resumed: %t", i, got)
		}
		x.must(ours.Close())
	}
}

func testOpensslResumes(x *trial) {
	port, accept := x.listen()
	session := filepath.Join(x.TempDir(), "session")
	for i, flag := range []string{"-sess_out", "-sess_in"} {
		p := x.start(x.opensslClient(port, "-quiet", "-nocommands", flag, session))
		ours := accept()
		if got := ours.ConnectionState().DidResume; got != (i > 0) {
			x.Errorf("connection %d resumed: %t", i, got)
		}
		x.must(writeAll(ours, []byte("there")))
		x.must(expect(p.out, []byte("there")))
		x.must(writeAll(p.in, []byte("back")))
		x.must(expect(ours, []byte("back")))
		x.must(ours.Close())
		_, err := io.ReadAll(p.out) // until it has ended, and written its session
		x.must(err)
	}
}

// gnutls-cli --resume connects, ends, and connects again.
func testGnutlsResumes(x *trial) {
	port, accept := x.listenLazily()
	p := x.start(x.gnutlsClient(port, "--resume", "--logfile=/dev/null"))
	first := accept()
	x.must(first.Handshake())
	x.account.checkLate(x.T, first)
	x.is(expectEnd(first), io.EOF)
	_ = first.Close() // nobody may be there to hear of it
	ours := accept()
	x.must(ours.Handshake())
	x.account.check(x.T, ours)
	if !ours.ConnectionState().DidResume {
		x.Error("it did not resume")
	}
	x.must(writeAll(ours, []byte("there")))
	x.must(expect(p.out, []byte("there")))
	x.must(writeAll(p.in, []byte("back")))
	x.must(expect(ours, []byte("back")))
}

// A program whose input has ended says close_notify.
func testOpensslEnds(x *trial) {
	port, accept := x.listen()
	p := x.start(x.opensslClient(port, "-nocommands"), speaking)
	ours := accept()
	p.line(x, "the last")
	x.must(expect(ours, []byte("the last\n")))
	x.must(p.in.Close())
	x.is(expectEnd(ours), io.EOF)
}

func testGnutlsEnds(x *trial) {
	port, accept := x.listen()
	p := x.start(x.gnutlsClient(port, "--logfile=/dev/null"))
	ours := accept()
	p.line(x, "the last")
	x.must(expect(ours, []byte("the last\n")))
	x.must(p.in.Close())
	x.is(expectEnd(ours), io.EOF)
	x.must(writeAll(ours, []byte("and one more")))
	x.must(ours.CloseWrite())
	got, err := io.ReadAll(p.out)
	x.must(err)
	x.must(same(got, []byte("and one more")))
}

// The kernel closes the connection of a process that dies, without a word of TLS.
func testOpensslKilled(x *trial) {
	port := x.freePort()
	p := x.start(x.opensslServer(port, "-quiet", "-naccept", "1"))
	x.listening(port)
	ours := x.dial(port)
	x.must(writeAll(p.in, []byte("a")))
	x.must(expect(ours, []byte("a")))
	x.must(p.cmd.Process.Kill())
	x.is(expectEnd(ours), io.ErrUnexpectedEOF)
}
