// SPDX-License-Identifier: BSD-3-Clause

package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"rpctls/certs"
	"rpctls/internal/netns"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// maxDropIns bounds the number of drop-ins.
const maxDropIns = 256

// Load reads the file at path, then the drop-ins "*.toml", in order of their
// names, in the directory that has path's name with ".d" for ".toml". Each is
// decoded into a new T, and given to merge with its name. A drop-in directory
// need not exist; everything else must, and unknown keys are errors.
func Load[T any](path string, merge func(name string, file T) error) error {
	files := []string{path}
	dropIns, err := dropIns(path)
	if err != nil {
		return err
	}
	for _, name := range append(files, dropIns...) {
		b, err := read(name)
		if err != nil {
			return err
		}
		var file T
		if err := Parse(name, b, &file); err != nil {
			return err
		}
		if s, ok := any(&file).(Sourced); ok {
			if err := s.Source(name, b); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if err := merge(name, file); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// A Sourced wants to see the text that it was decoded from, after it was.
type Sourced interface {
	Source(name string, text []byte) error
}

// A Block is one table of an array of tables: where "[[name]]" stands.
type Block struct {
	Name string
	Line int
}

// Blocks returns, in the order of the text, where the tables of the arrays with
// these names stand. Decoding into a structure loses the order between arrays
// of different names. The text is one that Parse has accepted.
func Blocks(text []byte, names ...string) (blocks []Block, err error) {
	var p unstable.Parser
	p.Reset(text)
	top := true // of no table
	line, counted := 1, 0
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Table || e.Kind == unstable.ArrayTable {
			top = false
		} else if e.Kind != unstable.KeyValue || !top {
			continue
		}
		key := e.Key()
		if !key.Next() || !key.IsLast() || !slices.Contains(names, string(key.Node().Data)) {
			continue
		}
		name, at := string(key.Node().Data), int(key.Node().Raw.Offset)
		line, counted = line+bytes.Count(text[counted:at], []byte("\n")), at
		if e.Kind == unstable.ArrayTable {
			blocks = append(blocks, Block{name, line})
		} else if e.Kind == unstable.KeyValue && e.Value().Kind == unstable.Array {
			for tables := e.Value().Children(); tables.Next(); {
				if tables.Node().Kind == unstable.InlineTable {
					blocks = append(blocks, Block{name, line})
				}
			}
		}
	}
	if err := p.Error(); err != nil {
		return nil, fmt.Errorf("find blocks: %w", err)
	}
	return blocks, nil
}

// Parse decodes one file's content into a pointer. Unknown keys are errors;
// errors begin with name, line and column.
func Parse(name string, b []byte, into any) error {
	err := toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields().Decode(into)
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		row, col := e.Position()
		return fmt.Errorf("%s:%d:%d: unknown key %q", name, row, col, strings.Join(e.Key(), "."))
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, col := e.Position()
		text := strings.TrimPrefix(e.Error(), "toml: ")
		if key := strings.Join(e.Key(), "."); key != "" {
			text = key + ": " + text
		}
		return fmt.Errorf("%s:%d:%d: %s", name, row, col, text)
	}
	if err != nil {
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "toml: "))
	}
	return nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read configuration: %s is over %d bytes", path, maxFile)
	}
	return b, nil
}

func dropIns(path string) ([]string, error) {
	dir := strings.TrimSuffix(path, ".toml") + ".d"
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	if len(names) > maxDropIns {
		return nil, fmt.Errorf("read configuration: %s holds over %d drop-ins", dir, maxDropIns)
	}
	return names, nil
}

// A Path is the absolute path of a file or directory.
type Path string

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Path) UnmarshalText(b []byte) error {
	if !filepath.IsAbs(string(b)) {
		return fmt.Errorf("%q is not an absolute path", b)
	}
	*p = Path(filepath.Clean(string(b)))
	return nil
}

// A Trust is an absolute path or the word "system".
type Trust string

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Trust) UnmarshalText(b []byte) error {
	if string(b) == certs.SystemTrust {
		*t = certs.SystemTrust
		return nil
	}
	var p Path
	if err := p.UnmarshalText(b); err != nil {
		return fmt.Errorf(`%q is neither an absolute path nor "system"`, b)
	}
	*t = Trust(p)
	return nil
}

// A Duration is written as a number with a unit, such as "1s" or "250ms".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v <= 0 {
		return fmt.Errorf(`%q is not a duration such as "1s" or "250ms"`, b)
	}
	*d = Duration(v)
	return nil
}

// A Level is a log level: "debug", "info", "warn" or "error".
type Level slog.Level

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Level) UnmarshalText(b []byte) error {
	for _, v := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if string(b) == strings.ToLower(v.String()) {
			*l = Level(v)
			return nil
		}
	}
	return fmt.Errorf("%q is none of debug, info, warn, error", b)
}

// Word decodes one of a closed set of words.
func Word(b []byte, words ...string) (string, error) {
	for _, w := range words {
		if string(b) == w {
			return w, nil
		}
	}
	return "", fmt.Errorf("%q is none of %s", b, strings.Join(words, ", "))
}

// An ALPN says what to do with a peer that does not agree on "sunrpc":
// "prefer" goes on without, "require" refuses it (RFC 9289 section 5).
type ALPN string

// The ALPN policies.
const (
	ALPNPrefer  ALPN = "prefer"
	ALPNRequire ALPN = "require"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *ALPN) UnmarshalText(b []byte) error {
	w, err := Word(b, string(ALPNPrefer), string(ALPNRequire))
	*a = ALPN(w)
	return err
}

// A Stale says what to do with a certificate whose issuer's list of revoked
// certificates is missing or out of date: "refuse" or "warn".
type Stale string

// The policies for stale lists.
const (
	StaleRefuse Stale = "refuse"
	StaleWarn   Stale = "warn"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Stale) UnmarshalText(b []byte) error {
	w, err := Word(b, string(StaleRefuse), string(StaleWarn))
	*s = Stale(w)
	return err
}

// A Value is a T in a file structure. go-toml calls UnmarshalText only for
// types that it cannot fill by itself, which a T of kind string or int is not.
type Value[T any, P interface {
	*T
	encoding.TextUnmarshaler
}] struct{ V T }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Value[T, P]) UnmarshalText(b []byte) error { return P(&v.V).UnmarshalText(b) }

// The values of the types here.
type (
	PathValue     = Value[Path, *Path]
	TrustValue    = Value[Trust, *Trust]
	DurationValue = Value[Duration, *Duration]
	LevelValue    = Value[Level, *Level]
	ALPNValue     = Value[ALPN, *ALPN]
	StaleValue    = Value[Stale, *Stale]
)

// Set copies *from to *to, if from is not nil.
func Set[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](to *T, from *Value[T, P]) {
	if from != nil {
		*to = from.V
	}
}

// Paths returns the values' paths.
func Paths(vs []PathValue) (ps []Path) {
	for _, v := range vs {
		ps = append(ps, v.V)
	}
	return ps
}

// Common holds the keys that both daemons' files have, as decoded: nil is not
// set.
type Common struct {
	Certificate      *PathValue       `toml:"certificate"`
	PrivateKey       *PathValue       `toml:"private_key"`
	Trust            *TrustValue      `toml:"trust"`
	CRL              *[]PathValue     `toml:"crl"`
	CRLStale         *StaleValue      `toml:"crl_stale"`
	ALPN             *ALPNValue       `toml:"alpn"`
	LogLevel         *LevelValue      `toml:"log_level"`
	RuntimeDirectory *PathValue       `toml:"runtime_directory"`
	Namespaces       *[]netns.Pattern `toml:"namespaces"`
	Namespace        []FileNamespace  `toml:"namespace"`
}

// Settings are the common keys' values.
type Settings struct {
	Certificate      Path
	PrivateKey       Path
	Trust            Trust
	CRL              []Path
	CRLStale         Stale
	ALPN             ALPN
	LogLevel         slog.Level
	RuntimeDirectory Path
	// Namespaces are the network namespaces that are served; none: that of the
	// daemon itself, which is among them otherwise.
	Namespaces []netns.Pattern
	// Spaces are what differs for some of them; the first that matches counts.
	Spaces []Namespace
}

// Defaults are the values of keys that are not set.
func Defaults() Settings {
	return Settings{
		CRLStale:         StaleRefuse,
		ALPN:             ALPNPrefer,
		LogLevel:         slog.LevelInfo,
		RuntimeDirectory: "/run/rpctls",
	}
}

// Merge takes over what c sets.
func (s *Settings) Merge(c Common) {
	Set(&s.Certificate, c.Certificate)
	Set(&s.PrivateKey, c.PrivateKey)
	Set(&s.Trust, c.Trust)
	if c.CRL != nil {
		s.CRL = Paths(*c.CRL)
	}
	Set(&s.CRLStale, c.CRLStale)
	Set(&s.ALPN, c.ALPN)
	if c.LogLevel != nil {
		s.LogLevel = slog.Level(c.LogLevel.V)
	}
	Set(&s.RuntimeDirectory, c.RuntimeDirectory)
	if c.Namespaces != nil {
		s.Namespaces = append([]netns.Pattern{}, *c.Namespaces...)
	}
	for _, f := range c.Namespace {
		s.Spaces = append(s.Spaces, f.value())
	}
}

// Pair verifies that a certificate and a private key are both set or both not.
func Pair(certificate, privateKey Path) error {
	switch {
	case certificate != "" && privateKey == "":
		return errors.New("certificate is set but private_key is not")
	case certificate == "" && privateKey != "":
		return errors.New("private_key is set but certificate is not")
	}
	return nil
}
