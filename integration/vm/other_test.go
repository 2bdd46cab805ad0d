// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"slices"
	"strings"
	"testing"
)

// Kernels beside the matrix are none of its own, and can be told from each other.
func TestOtherKernels(t *testing.T) {
	packages := []debPackage{
		{Name: "linux-image-5.10.0-46-cloud-amd64", Version: "5.10.262-1"},
		{Name: "linux-image-5.10.0-32-cloud-amd64", Version: "5.10.223-1"},
		{Name: "linux-image-6.1.0-50-cloud-amd64", Version: "6.1.170-1"},
		{Name: "linux-image-6.1.0-0.deb11.52-cloud-amd64", Version: "6.1.171-1~deb11u1"},
		{Name: "linux-image-6.12.117+deb13-cloud-amd64", Version: "6.12.117-1"},
		{Name: "linux-image-7.2.13+deb14-cloud-amd64", Version: "7.2.13-1"},
		{Name: "linux-image-7.3.4+deb13-cloud-amd64", Version: "7.3.4-1~bpo13+1"},
		{Name: "linux-image-cloud-amd64", Version: "7.4.1-1"},
	}
	want := []string{"5.10.262-1", "6.1.170-1", "7.3.4-1~bpo13+1"}
	var got []string
	for _, k := range otherKernels {
		if slices.Contains(Kernels(), k.Key) {
			t.Errorf("%s is in the matrix", k.Key)
		}
		p, err := chooseKernel(k.kernelSpec, packages)
		if err != nil {
			t.Error(err)
		}
		got = append(got, p.Version)
	}
	if !slices.Equal(got, want) {
		t.Errorf("chosen are %v, want %v", got, want)
	}
	err := known("1.0")
	if err == nil || !strings.Contains(err.Error(), "5.10") || !strings.Contains(err.Error(), "7.2") {
		t.Errorf("error is %v", err)
	}
}

func TestOtherVersion(t *testing.T) {
	k := otherKernels[0]
	version := k.version()
	if version != k.version() {
		t.Fatal("differs from call to call")
	}
	for _, o := range otherKernels[1:] {
		if version == o.version() {
			t.Errorf("%s and %s have one place", k.Key, o.Key)
		}
	}
	k.Early = append(k.Early, "another")
	if version == k.version() {
		t.Error("does not change with the recipe")
	}
}
