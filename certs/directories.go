// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Directories returns the names, sorted, of the directories in dir, symbolic
// links to directories among them. Those that begin with a dot are passed over.
// More than 1024 of them are an error, as are more than 4096 entries of any
// kind.
func (f *Files) Directories(dir string) ([]string, error) {
	names, err := listDirectories(dir)
	st := stamp{dir: true, subdirs: true, names: names}
	if err != nil {
		st.fail = err.Error()
	}
	f.remember(dir, st)
	return names, err
}

func listDirectories(dir string) ([]string, error) {
	entries, err := scan(dir)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || !isDir(filepath.Join(dir, entry.Name())) {
			continue
		}
		if names = append(names, entry.Name()); len(names) > maxListed {
			return nil, fmt.Errorf("list %s: more than %d directories", dir, maxListed)
		}
	}
	slices.Sort(names)
	return names, nil
}
