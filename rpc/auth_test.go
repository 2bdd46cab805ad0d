// SPDX-License-Identifier: BSD-3-Clause

package rpc_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/rpc"
)

func TestAuthSys(t *testing.T) {
	tests := []struct {
		name  string
		parms rpc.AuthSysParms
		wire  string
	}{
		{
			name:  "with groups",
			parms: rpc.AuthSysParms{Stamp: 0x11223344, MachineName: "host1", UID: 1000, GID: 100, GIDs: []uint32{4, 24}},
			wire:  "11223344 00000005 686f7374 31000000 000003e8 00000064 00000002 00000004 00000018",
		},
		{
			name: "zero",
			wire: "00000000 00000000 00000000 00000000 00000000",
		},
		{
			name: "at the bounds",
			parms: rpc.AuthSysParms{
				MachineName: strings.Repeat("m", rpc.MaxMachineName),
				UID:         1<<32 - 2, GID: 1<<32 - 2, GIDs: make([]uint32, rpc.MaxGIDs),
			},
			wire: "00000000 000000ff" + strings.Repeat("6d", 255) + "00 fffffffe fffffffe 00000010" + strings.Repeat("00000000", 16),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cred, err := tt.parms.Cred()
			wantErr(t, err, nil)
			if diff := cmp.Diff(rpc.OpaqueAuth{Flavor: rpc.AuthSys, Body: wire(t, tt.wire)}, cred); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
			got, err := rpc.ParseAuthSys(cred)
			wantErr(t, err, nil)
			if diff := cmp.Diff(&tt.parms, got); diff != "" {
				t.Errorf("parsed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAuthSysErrors(t *testing.T) {
	if _, err := (&rpc.AuthSysParms{MachineName: strings.Repeat("m", 256)}).Cred(); err == nil {
		t.Error("a machine name of 256 bytes is accepted")
	}
	if _, err := (&rpc.AuthSysParms{GIDs: make([]uint32, 17)}).Cred(); err == nil {
		t.Error("17 groups are accepted")
	}
	for name, cred := range map[string]rpc.OpaqueAuth{
		"flavor":    {Flavor: rpc.AuthNone, Body: make([]byte, 20)},
		"empty":     {Flavor: rpc.AuthSys},
		"17 groups": {Flavor: rpc.AuthSys, Body: wire(t, strings.Repeat("00000000", 4)+"00000011"+strings.Repeat("00000000", 17))},
		"missing":   {Flavor: rpc.AuthSys, Body: wire(t, strings.Repeat("00000000", 4)+"00000002 00000001")},
		"trailing":  {Flavor: rpc.AuthSys, Body: make([]byte, 24)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rpc.ParseAuthSys(cred)
			wantErr(t, err, rpc.ErrProtocol)
		})
	}
}
