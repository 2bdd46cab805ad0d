// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// A debPackage is what one stanza of an index says about a package.
type debPackage struct {
	Name    string
	Version string
	Depends []string // names only, alternatives and versions removed
	Suite   string   // where it was found, filled in by the caller
}

// parsePackages reads stanzas as "apt-cache show" prints them.
func parsePackages(text string) []debPackage {
	var packages []debPackage
	for stanza := range strings.SplitSeq(text, "\n\n") {
		var p debPackage
		for line := range strings.Lines(stanza) {
			key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ": ")
			switch key {
			case "Package":
				p.Name = value
			case "Version":
				p.Version = value
			case "Depends", "Pre-Depends":
				p.Depends = append(p.Depends, dependencyNames(value)...)
			}
		}
		if p.Name != "" && p.Version != "" {
			packages = append(packages, p)
		}
	}
	return packages
}

func dependencyNames(field string) []string {
	var names []string
	for alternatives := range strings.SplitSeq(field, ",") {
		for alternative := range strings.SplitSeq(alternatives, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(alternative), " ")
			name, _, _ = strings.Cut(name, ":")
			if name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// chooseKernel returns the newest package that the specification asks for.
func chooseKernel(spec kernelSpec, packages []debPackage) (debPackage, error) {
	re, err := regexp.Compile(spec.Package)
	if err != nil {
		return debPackage{}, fmt.Errorf("kernel %q in recipe.go: %w", spec.Key, err)
	}
	var best, newest debPackage
	for _, p := range packages {
		if re.MatchString(p.Name) && compareVersions(p.Version, best.Version) > 0 {
			best = p
		}
		if strings.HasPrefix(p.Name, "linux-image-") && compareVersions(p.Version, newest.Version) > 0 {
			newest = p
		}
	}
	if best.Name == "" {
		have := "they have no kernel at all"
		if newest.Name != "" {
			have = fmt.Sprintf("the newest there is %s (%s)", newest.Name, newest.Suite)
		}
		return debPackage{}, fmt.Errorf("kernel %q in recipe.go: no package of %s matches %q; %s",
			spec.Key, strings.Join(spec.Suites, ", "), spec.Package, have)
	}
	if v := strings.TrimPrefix(best.Name, "linux-image-"); v != spec.Key && !strings.HasPrefix(v, spec.Key+".") {
		return debPackage{}, fmt.Errorf("kernel %q in recipe.go: %q matches %s, which is another version",
			spec.Key, spec.Package, best.Name)
	}
	return best, nil
}

var kernelPart = regexp.MustCompile(`^linux-(binary|modules|base)-[0-9]`)

// kernelParts returns which of a kernel package's dependencies hold a part of
// the kernel itself: Debian has split it differently over time.
func kernelParts(p debPackage) []string {
	var parts []string
	for _, name := range p.Depends {
		if kernelPart.MatchString(name) {
			parts = append(parts, name)
		}
	}
	return parts
}

// compareVersions orders Debian versions as deb-version(7) says; an empty one
// is older than all.
func compareVersions(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(len(a), len(b))
	}
	aEpoch, aUpstream, aRevision := splitVersion(a)
	bEpoch, bUpstream, bRevision := splitVersion(b)
	return cmp.Or(
		compareParts(aEpoch, bEpoch),
		compareParts(aUpstream, bUpstream),
		compareParts(aRevision, bRevision),
	)
}

func splitVersion(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// compareParts compares alternating runs of non-digits, in which a tilde
// comes before the end and letters before other characters, and of digits,
// which are numbers.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !isDigit(a[0])) || (b != "" && !isDigit(b[0])) {
			if c := cmp.Compare(charOrder(a), charOrder(b)); c != 0 {
				return c
			}
			a, b = a[1:], b[1:] // equal and not the end, so both have one
		}
		var aNum, bNum string
		aNum, a = takeDigits(a)
		bNum, b = takeDigits(b)
		if c := cmp.Or(cmp.Compare(len(aNum), len(bNum)), strings.Compare(aNum, bNum)); c != 0 {
			return c
		}
	}
	return 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func charOrder(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case 'a' <= s[0] && s[0] <= 'z' || 'A' <= s[0] && s[0] <= 'Z':
		return int(s[0])
	default:
		return int(s[0]) + 256
	}
}

// takeDigits splits off leading digits, without leading zeros.
func takeDigits(s string) (number, rest string) {
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}
