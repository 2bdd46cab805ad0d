// SPDX-License-Identifier: BSD-3-Clause

package cli

import (
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// A Screen is where text for people goes, with colour if it can have it.
type Screen struct {
	W        io.Writer
	Colour   bool
	Terminal bool
}

// NewScreen looks at what w is: colour is for terminals, unless NO_COLOR is set
// to anything (https://no-color.org) or TERM is "dumb".
func NewScreen(w io.Writer) Screen {
	f, ok := w.(*os.File)
	s := Screen{W: w, Terminal: ok && term.IsTerminal(int(f.Fd()))}
	s.Colour = s.Terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// A Colour is one of few.
type Colour string

// The colours.
const (
	Plain  Colour = ""
	Bold   Colour = "1"
	Red    Colour = "31"
	Green  Colour = "32"
	Yellow Colour = "33"
)

// A Cell is a text in a table. What others have chosen, such as names in
// certificates, passes through here: it stays on its line and moves no cursor.
type Cell struct {
	Text   string
	Colour Colour
}

// Cells makes cells of texts.
func Cells(texts ...string) []Cell {
	row := make([]Cell, len(texts))
	for i, t := range texts {
		row[i] = Cell{Text: t}
	}
	return row
}

// printable takes away what moves a cursor, ends a line or turns the direction of
// writing round.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// Table writes rows in columns that are as wide as their widest cell, but for the
// last of a row, which is as long as it is.
func (s Screen) Table(rows [][]Cell) error {
	var widths []int
	for _, row := range rows {
		for i := range row {
			row[i].Text = printable(row[i].Text)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			if i < len(row)-1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(row[i].Text))
			}
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, c := range row {
			if s.Colour && c.Colour != Plain && c.Text != "" {
				b.WriteString("\x1b[" + string(c.Colour) + "m" + c.Text + "\x1b[0m")
			} else {
				b.WriteString(c.Text)
			}
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.Text)+2))
			}
		}
		b.WriteByte('\n')
	}
	// Rows whose last cells are empty end in spaces.
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	_, err := io.WriteString(s.W, strings.Join(lines, "\n"))
	return err
}
