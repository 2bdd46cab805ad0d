// SPDX-License-Identifier: BSD-3-Clause

package policy

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A DN matches distinguished names. It is written as the log writes subjects
// (RFC 4514): attributes with commas between them, the most particular first, as
// in "CN=backup,O=Example". That is the whole name, in this order; with "*" at
// the end, as in "O=Example,*", the name must hold these attributes and may hold
// others, in any order. Values are compared byte for byte.
type DN struct {
	text string
	rdns [][]attribute // as written: the most particular first
	some bool          // "*" at the end
}

// An attribute is a type and value in the one form in which they are compared.
type attribute struct {
	oid   string
	value string // of a string type
	der   bool   // value is DER of another type
}

// attributeTypes are the names of RFC 4514 section 3 and some more that are in
// use, in capitals.
var attributeTypes = map[string]string{
	"CN": "2.5.4.3", "SERIALNUMBER": "2.5.4.5", "C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8",
	"STREET": "2.5.4.9", "O": "2.5.4.10", "OU": "2.5.4.11", "POSTALCODE": "2.5.4.17",
	"UID": "0.9.2342.19200300.100.1.1", "DC": "0.9.2342.19200300.100.1.25", "EMAILADDRESS": "1.2.840.113549.1.9.1",
}

// maxDN bounds a distinguished name in a rule, in bytes.
const maxDN = 1024

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DN) UnmarshalText(b []byte) error {
	parsed, err := parseDN(string(b))
	if err != nil {
		return fmt.Errorf(`%q is not a distinguished name such as "CN=backup,O=Example" or "O=Example,*": %w`, b, err)
	}
	*d = parsed
	return nil
}

// String returns the name as written.
func (d DN) String() string { return d.text }

func parseDN(s string) (DN, error) {
	d := DN{text: s}
	if len(s) > maxDN || !utf8.ValidString(s) {
		return DN{}, fmt.Errorf("over %d bytes, or not UTF-8", maxDN)
	}
	rest, more := s, true
	for first := true; more; first = false {
		if !first {
			rest = strings.TrimLeft(rest, " ")
			if rest == "*" {
				d.some = true
				return d, nil
			}
		}
		var rdn []attribute
		for plus := true; plus; {
			var a attribute
			var sep byte
			var err error
			if a, rest, sep, err = parseAttribute(rest); err != nil {
				return DN{}, err
			}
			if slices.Contains(rdn, a) {
				return DN{}, errors.New("an attribute is there twice")
			}
			rdn = append(rdn, a)
			plus, more = sep == '+', sep == ','
		}
		d.rdns = append(d.rdns, rdn)
	}
	return d, nil
}

// parseAttribute reads "type=value" and the separator behind it; 0 at the end.
func parseAttribute(s string) (a attribute, rest string, sep byte, err error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok {
		return a, "", 0, errors.New(`an attribute without "="`)
	}
	if a.oid, ok = attributeTypes[strings.ToUpper(name)]; !ok {
		if _, err := parseOID(name); err != nil {
			return a, "", 0, fmt.Errorf("%q is neither numbers with dots nor one of %s", name, strings.Join(sortedNames(attributeTypes), ", "))
		}
		a.oid = name
	}
	raw := rest
	var value []byte
	escaped := -1 // where the last escape ends in value
	for i := 0; ; i++ {
		if i == len(rest) {
			raw, rest = rest, ""
			break
		}
		c := rest[i]
		if c == ',' || c == '+' {
			raw, sep, rest = rest[:i], c, rest[i+1:]
			break
		}
		switch {
		case c == '\\':
			if i+1 < len(rest) && strings.IndexByte(`\"+,;<>= #`, rest[i+1]) >= 0 {
				value, i = append(value, rest[i+1]), i+1
			} else if pair, err := hex.DecodeString(rest[i+1 : min(i+3, len(rest))]); err == nil && len(pair) == 1 {
				value, i = append(value, pair[0]), i+2
			} else {
				return a, "", 0, errors.New("a backslash before nothing that needs one")
			}
			escaped = len(value)
		case strings.IndexByte("\";<>*\x00", c) >= 0:
			return a, "", 0, fmt.Errorf("%q in a value needs a backslash, as in %q", c, fmt.Sprintf(`\%02x`, c))
		default:
			value = append(value, c)
		}
	}
	if digits, ok := strings.CutPrefix(raw, "#"); ok {
		der, err := hex.DecodeString(digits)
		var v asn1.RawValue
		if err == nil {
			if after, aerr := asn1.Unmarshal(der, &v); aerr != nil || len(after) > 0 {
				err = errors.New("no DER")
			}
		}
		if err != nil {
			return a, "", 0, fmt.Errorf("%q is not the DER of a value in hexadecimal", raw)
		}
		a.value, a.der = decodeValue(v)
		return a, rest, sep, nil
	}
	switch {
	case len(value) == 0:
		return a, "", 0, errors.New("an attribute without a value")
	case raw[0] == ' ' || value[len(value)-1] == ' ' && escaped != len(value):
		return a, "", 0, errors.New(`a space at an end of a value needs a backslash`)
	case !utf8.Valid(value):
		return a, "", 0, errors.New("a value that is not UTF-8")
	}
	a.value = string(value)
	return a, rest, sep, nil
}

// decodeValue returns the text of a value, or its DER if it is of no string
// type that we know.
func decodeValue(v asn1.RawValue) (value string, der bool) {
	if v.Class == asn1.ClassUniversal && !v.IsCompound {
		switch v.Tag {
		case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagNumericString:
			if utf8.Valid(v.Bytes) {
				return string(v.Bytes), false
			}
		case asn1.TagT61String:
			// Its alphabet depends on whom one asks; ASCII is in all of them.
			if !slices.ContainsFunc(v.Bytes, func(c byte) bool { return c >= 0x80 }) {
				return string(v.Bytes), false
			}
		case asn1.TagBMPString:
			if len(v.Bytes)%2 == 0 {
				units := make([]uint16, len(v.Bytes)/2)
				for i := range units {
					units[i] = uint16(v.Bytes[2*i])<<8 | uint16(v.Bytes[2*i+1])
				}
				return string(utf16.Decode(units)), false
			}
		}
	}
	return string(v.FullBytes), true
}

// A nameInCert is a distinguished name as a certificate has it, the most general
// first.
type nameInCert [][]attribute

type asn1Attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// The suffix is what tells package asn1 that it is a SET.
type asn1RDNSET []asn1Attribute

// readName decodes a Name (RFC 5280 section 4.1.2.4).
func readName(der []byte) (nameInCert, error) {
	var seq []asn1RDNSET
	rest, err := asn1.Unmarshal(der, &seq)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("more than a name")
	}
	name := make(nameInCert, len(seq))
	for i, set := range seq {
		for _, in := range set {
			a := attribute{oid: in.Type.String()}
			a.value, a.der = decodeValue(in.Value)
			name[i] = append(name[i], a)
		}
	}
	return name, nil
}

func (d DN) match(n nameInCert) bool {
	if d.some {
		for _, rdn := range d.rdns {
			for _, a := range rdn {
				if !slices.ContainsFunc(n, func(in []attribute) bool { return slices.Contains(in, a) }) {
					return false
				}
			}
		}
		return true
	}
	if len(d.rdns) != len(n) {
		return false
	}
	for i, rdn := range d.rdns {
		in := n[len(n)-1-i]
		if len(rdn) != len(in) {
			return false
		}
		for _, a := range rdn {
			if !slices.Contains(in, a) {
				return false
			}
		}
	}
	return true
}
