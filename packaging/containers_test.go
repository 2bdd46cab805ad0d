// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"rpctls/certs/certstest"
	"rpctls/packaging/assembly"
)

type object = map[string]any

// objects reads a Kubernetes manifest, by kind.
func objects(t *testing.T, file string) map[string]object {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]object)
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[o["kind"].(string)] = o
	}
}

// at follows keys, and numbers of lists.
func at(t *testing.T, v any, keys ...any) any {
	t.Helper()
	for _, key := range keys {
		switch k := key.(type) {
		case string:
			m, _ := v.(object)
			v = m[k]
		case int:
			l, _ := v.([]any)
			if k >= len(l) {
				t.Fatalf("%v: no element %d", keys, k)
			}
			v = l[k]
		}
	}
	return v
}

const daemonset = "kubernetes/rpctls-daemonset.yaml"

func TestDaemonSet(t *testing.T) {
	all := objects(t, daemonset)
	for kind, o := range all {
		if name := at(t, o, "metadata", "name"); kind == "Namespace" && name != "rpctls" || kind != "Namespace" && at(t, o, "metadata", "namespace") != "rpctls" {
			t.Errorf("%s %v is in another namespace", kind, name)
		}
	}
	spec := at(t, all["DaemonSet"], "spec", "template", "spec")
	for key, want := range map[string]any{"hostNetwork": true, "hostUsers": true, "hostPID": nil, "hostIPC": nil, "automountServiceAccountToken": false} {
		if got := at(t, spec, key); got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	containers := at(t, spec, "containers").([]any)
	if len(containers) != 1 || at(t, spec, "initContainers") != nil {
		t.Errorf("%d containers", len(containers))
	}
	context := at(t, containers[0], "securityContext").(object)
	for key, want := range map[string]any{"privileged": nil, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true} {
		if got := context[key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	for key, want := range map[string]string{"add": "NET_ADMIN", "drop": "ALL"} {
		if got, _ := at(t, context, "capabilities", key).([]any); !slices.Equal(got, []any{want}) {
			t.Errorf("capabilities: %s %v, want %s", key, got, want)
		}
	}
	for _, v := range at(t, spec, "volumes").([]any) {
		if at(t, v, "hostPath") != nil {
			t.Errorf("volume %v is the node's", v)
		}
	}
	labels := at(t, all["DaemonSet"], "spec", "selector", "matchLabels").(object)
	for key, want := range labels {
		if got := at(t, all["DaemonSet"], "spec", "template", "metadata", "labels", key); got != want {
			t.Errorf("label %s is %v, want %v", key, got, want)
		}
	}
}

// TestImage makes what the Containerfile describes, puts into it what the
// DaemonSet mounts, and has the daemon read all of it.
func TestImage(t *testing.T) {
	b := built(t)
	if os.Getuid() != 0 {
		t.Skip("needs root, for chroot")
	}
	image := t.TempDir()
	text, err := os.ReadFile("container/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	var entry string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		switch f[0] {
		case "COPY":
			to := f[len(f)-1]
			for _, from := range f[1 : len(f)-1] {
				from = strings.ReplaceAll(from, "${TARGETARCH}", runtime.GOARCH)
				// "dist" is what "make packages" fills.
				if rest, ok := strings.CutPrefix(from, "dist/"); ok {
					from = filepath.Join(b.Out, rest)
				} else {
					from = filepath.Join(root, from)
				}
				dest := filepath.Join(image, to)
				if strings.HasSuffix(to, "/") {
					dest = filepath.Join(dest, filepath.Base(from))
				}
				copyFile(t, from, dest)
			}
		case "FROM":
			if f[1] != "scratch" {
				t.Errorf("the image is from %s", f[1])
			}
		case "ENTRYPOINT":
			entry = strings.Trim(f[1], `[]"`)
		}
	}
	for _, arch := range assembly.Arches {
		if _, err := os.Stat(filepath.Join(b.Out, "bin", arch, "rpctlscd")); err != nil {
			t.Error(err)
		}
	}
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "CA"})
	leaf := ca.MustIssue(t, certstest.Options{CommonName: "nodes", DNS: []string{"nodes.example.com"}})
	certs := t.TempDir()
	leaf.MustWriteFiles(t, certs)
	tls := filepath.Join(image, "etc/rpctls-tls")
	copyFile(t, filepath.Join(certs, "cert.pem"), filepath.Join(tls, "tls.crt"))
	copyFile(t, filepath.Join(certs, "key.pem"), filepath.Join(tls, "tls.key"))
	if err := os.Chmod(filepath.Join(tls, "tls.key"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tls, "ca.pem"), ca.PEM(), 0o400); err != nil {
		t.Fatal(err)
	}
	all := objects(t, daemonset)
	config := at(t, all["ConfigMap"], "data", "rpctlscd.toml").(string)
	if err := os.MkdirAll(filepath.Join(image, "etc/rpctls"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, "etc/rpctls/rpctlscd.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	var command []string
	for _, word := range at(t, all["DaemonSet"], "spec", "template", "spec", "containers", 0, "command").([]any) {
		command = append(command, word.(string))
	}
	if command[0] != entry {
		t.Errorf("the DaemonSet runs %s, the image has %s", command[0], entry)
	}
	out, err := exec.Command("chroot", append(append([]string{image}, command...), "-check")...).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v\n%s", command, err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, st.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}
