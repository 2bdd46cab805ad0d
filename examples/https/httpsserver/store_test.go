// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestStore(t *testing.T) {
	const json, text = "application/json", "text/plain"
	s := newStore(limits{body: 40, total: 60, resources: 3})
	for _, tt := range []struct {
		method, path, contentType, body string
		code                            int
		want                            string // body, or Location
	}{
		{"GET", "/a", "", "", 404, ""},
		{"PUT", "/a", json, `{"x":1,"y":1.50}`, 201, ""},
		{"PUT", "/a", json, `{"x":2,"y":1.50}`, 204, ""},
		{"GET", "/a", "", "", 200, `{"x":2,"y":1.50}`},
		{"HEAD", "/a", "", "", 200, ""},
		{"PATCH", "/a", mergePatch, `{"x":null,"z":[1]}`, 204, ""},
		{"PATCH", "/a", json, `{}`, 415, ""},
		{"PATCH", "/nothing", mergePatch, `{}`, 404, ""},
		{"PATCH", "/a", mergePatch, `{`, 422, ""},
		{"PATCH", "/a", mergePatch, `{"long":"` + strings.Repeat("x", 20) + `"}`, 507, ""},
		{"GET", "/a", "", "", 200, `{"y":1.50,"z":[1]}`},
		{"POST", "/list", text, "one", 201, "/list/1"},
		{"GET", "/list/1", "", "", 200, "one"},
		{"PATCH", "/list/1", mergePatch, `{}`, 422, ""},
		{"PUT", "/list/2", text, "two", 201, ""},
		{"PUT", "/more", text, "", 507, ""},
		{"DELETE", "/list/2", "", "", 204, ""},
		{"DELETE", "/list/2", "", "", 404, ""},
		{"PUT", "/long", text, strings.Repeat("x", 41), 413, ""},
		{"PUT", "/long", text, strings.Repeat("x", 40), 507, ""},
		{"PUT", "/long", text, strings.Repeat("x", 39), 201, ""},
		{"PUT", "/long", text, "short", 204, ""},
		{"PUT", "/a", text, strings.Repeat("x", 40), 204, ""},
		{"TRACE", "/a", "", "", 405, ""},
	} {
		r := httptest.NewRequest(tt.method, "https://localhost"+tt.path, strings.NewReader(tt.body))
		if tt.contentType != "" {
			r.Header.Set("Content-Type", tt.contentType)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		got := w.Header().Get("Location")
		if tt.code == http.StatusOK {
			got = w.Body.String()
		}
		if w.Code != tt.code || got != tt.want {
			t.Errorf("%s %s %q: %d %q, want %d %q", tt.method, tt.path, tt.body, w.Code, got, tt.code, tt.want)
		}
		size := int64(0)
		for _, i := range s.items {
			size += int64(len(i.body))
		}
		if size != s.size || size > s.limits.total {
			t.Fatalf("%s %s: %d bytes are kept, and counted as %d", tt.method, tt.path, size, s.size)
		}
	}
}

// The examples of RFC 7396 appendix A.
func TestMerge(t *testing.T) {
	for _, tt := range []struct{ document, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		got, err := merge([]byte(tt.document), []byte(tt.patch))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s with %s: %s, %v; want %s", tt.document, tt.patch, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "{", "{} {}", strings.Repeat("[", 20000)} {
		if got, err := merge([]byte("{}"), []byte(bad)); err == nil {
			t.Errorf("%.20q: %s", bad, got)
		}
	}
}

// A patch applied twice does what it did once (RFC 7396 has no counters).
func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"a":{"b":"c"}}`), []byte(`{"a":{"b":"d","c":null}}`))
	f.Add([]byte(`[1,2]`), []byte(`{"a":"b","c":null}`))
	f.Add([]byte(`{"e":null}`), []byte(`{"a":1e400}`))
	f.Fuzz(func(t *testing.T, document, patch []byte) {
		once, err := merge(document, patch)
		if err != nil {
			return
		}
		twice, err := merge(once, patch)
		if err != nil || string(twice) != string(once) {
			t.Errorf("%s with %s: %s, then %s, %v", document, patch, once, twice, err)
		}
	})
}
