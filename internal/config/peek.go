// SPDX-License-Identifier: BSD-3-Clause

package config

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// RuntimeDirectory returns the runtime directory of the daemon whose
// configuration is at path, for a tool that wants to talk to it and to nothing
// else of the file. With an error it returns the default: what is wrong with the
// file is for the daemon to say.
func RuntimeDirectory(path string) (string, error) {
	found := Defaults().RuntimeDirectory
	files, err := dropIns(path)
	if err != nil {
		return string(found), err
	}
	for _, name := range append([]string{path}, files...) {
		b, err := read(name)
		if err != nil {
			return string(Defaults().RuntimeDirectory), err
		}
		var f struct {
			RuntimeDirectory *PathValue `toml:"runtime_directory"`
		}
		if err := toml.Unmarshal(b, &f); err != nil {
			return string(Defaults().RuntimeDirectory), fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "toml: "))
		}
		Set(&found, f.RuntimeDirectory)
	}
	return string(found), nil
}

// Sets reports whether the configuration at path, or one of its drop-ins, sets a
// key at its top level: a daemon whose indispensable key is not set has only been
// installed. What cannot be read sets nothing.
func Sets(path, key string) bool {
	files, err := dropIns(path)
	if err != nil {
		files = nil
	}
	for _, name := range append([]string{path}, files...) {
		b, err := read(name)
		if err != nil {
			continue
		}
		keys := make(map[string]any)
		if toml.Unmarshal(b, &keys) != nil {
			return true // somebody has written it, and it is for the daemon to say what is wrong
		}
		if _, ok := keys[key]; ok {
			return true
		}
	}
	return false
}
