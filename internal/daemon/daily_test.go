// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rpctls/certs"
	"rpctls/internal/logging"
)

// A daemon that nobody touches warns all the same, every day, of what runs out.
func TestWarnsEveryDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(100 * time.Hour)
		p := Program[int, string]{
			Name: "rpctlssd",
			Warnings: func(s *string, now time.Time) []string {
				if left := end.Sub(now); left < 60*time.Hour {
					return []string{*s + " ends in " + left.String()}
				}
				return nil
			},
		}
		live, err := certs.NewLive(func(*certs.Files) (*string, error) {
			name := "list"
			return &name, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		log := slog.New(logging.NewText(&text, "rpctlssd", slog.LevelInfo))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.reminder(live, log).Run(ctx) }()
		time.Sleep(73 * time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := "rpctlssd: warn: list ends in 52h0m0s\nrpctlssd: warn: list ends in 28h0m0s\n"
		if got := text.String(); got != want {
			t.Errorf("after three days: %swant: %s", got, want)
		}
	})
}

// The daemon does have that task: its function is called where tasks are made.
func TestReminderIsATask(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "daemon.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	run := slices.IndexFunc(file.Decls, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		return ok && f.Name.Name == "run"
	})
	found := false
	ast.Inspect(file.Decls[run], func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "reminder" {
				found = true
			}
		}
		return true
	})
	if !found {
		t.Error("run has no task that warns every day")
	}
}
