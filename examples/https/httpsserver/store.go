// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// limits bound what the server keeps.
type limits struct {
	body, total int64 // bytes
	resources   int
}

// A store is the resources, by path. It is the server's handler.
type store struct {
	http.Handler
	limits limits

	mu    sync.Mutex
	items map[string]item // an item is replaced and never changed
	size  int64           // of all bodies
	last  int             // number that POST gave
}

type item struct {
	contentType string
	body        []byte
	etag        string
	changed     time.Time
}

func newStore(l limits) *store {
	s := &store{limits: l, items: make(map[string]item)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", s.get)
	mux.HandleFunc("PUT /", s.put)
	mux.HandleFunc("POST /", s.post)
	mux.HandleFunc("PATCH /", s.patch)
	mux.HandleFunc("DELETE /", s.delete)
	s.Handler = mux
	return s
}

func (s *store) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	i, ok := s.items[r.URL.Path]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", i.contentType)
	w.Header().Set("ETag", i.etag)
	http.ServeContent(w, r, "", i.changed, bytes.NewReader(i.body))
}

var (
	errFull   = errors.New("the server keeps no more")
	errAbsent = errors.New("no such resource")
)

// read reads a request's body, which is bounded.
func (s *store) read(w http.ResponseWriter, r *http.Request) (item, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.limits.body))
	if err != nil {
		code := http.StatusBadRequest
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), code)
		return item{}, false
	}
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	return newItem(contentType, body), true
}

func newItem(contentType string, body []byte) item {
	return item{contentType, body, fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(body))), time.Now()}
}

// change replaces the resource at a path by what f makes of it, in one step.
func (s *store) change(p string, f func(old item, ok bool) (item, error)) (existed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, existed := s.items[p]
	i, err := f(old, existed)
	if err != nil {
		return existed, err
	}
	size := s.size + int64(len(i.body)) - int64(len(old.body))
	if size > s.limits.total || !existed && len(s.items) >= s.limits.resources {
		return existed, errFull
	}
	s.items[p], s.size = i, size
	return existed, nil
}

// fail answers with an error of change.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusUnprocessableEntity
	switch {
	case errors.Is(err, errAbsent):
		code = http.StatusNotFound
	case errors.Is(err, errFull):
		code = http.StatusInsufficientStorage
	}
	http.Error(w, err.Error(), code)
}

func (s *store) put(w http.ResponseWriter, r *http.Request) {
	i, ok := s.read(w, r)
	if !ok {
		return
	}
	existed, err := s.change(r.URL.Path, func(item, bool) (item, error) { return i, nil })
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("ETag", i.etag)
	if existed {
		w.WriteHeader(http.StatusNoContent)
	} else {
		w.WriteHeader(http.StatusCreated)
	}
}

// post makes a resource below the path.
func (s *store) post(w http.ResponseWriter, r *http.Request) {
	i, ok := s.read(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	s.last++
	n := s.last
	s.mu.Unlock()
	p := path.Join(r.URL.Path, fmt.Sprint(n))
	if _, err := s.change(p, func(_ item, ok bool) (item, error) {
		if ok { // somebody has PUT it there
			return item{}, fmt.Errorf("%s exists", p)
		}
		return i, nil
	}); err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Location", p)
	w.Header().Set("ETag", i.etag)
	w.WriteHeader(http.StatusCreated)
}

const mergePatch = "application/merge-patch+json"

func (s *store) patch(w http.ResponseWriter, r *http.Request) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != mergePatch {
		w.Header().Set("Accept-Patch", mergePatch)
		http.Error(w, "want "+mergePatch, http.StatusUnsupportedMediaType)
		return
	}
	p, ok := s.read(w, r)
	if !ok {
		return
	}
	var made item
	_, err := s.change(r.URL.Path, func(old item, ok bool) (item, error) {
		if !ok {
			return item{}, errAbsent
		}
		if !strings.Contains(old.contentType, "json") {
			return item{}, fmt.Errorf("%s is %s, not JSON", r.URL.Path, old.contentType)
		}
		body, err := merge(old.body, p.body)
		if err == nil && int64(len(body)) > s.limits.body {
			err = errFull
		}
		made = newItem(old.contentType, body)
		return made, err
	})
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("ETag", made.etag)
	w.WriteHeader(http.StatusNoContent)
}

func (s *store) delete(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	i, ok := s.items[r.URL.Path]
	delete(s.items, r.URL.Path)
	s.size -= int64(len(i.body))
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
