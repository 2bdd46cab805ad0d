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
