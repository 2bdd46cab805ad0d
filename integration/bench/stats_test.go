// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"math"
	"testing"
)

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, tt := range []struct {
		name   string
		sorted []float64
		p      float64
		want   float64
	}{
		{"one value", []float64{7}, 99, 7},
		{"half of two", []float64{1, 2}, 50, 1},
		{"half of three", []float64{1, 2, 3}, 50, 2},
		{"least", hundred, 0, 1},
		{"half", hundred, 50, 50},
		{"nearly all", hundred, 99, 99},
		{"between two ranks", hundred, 98.5, 99},
		{"most", hundred, 100, 100},
		{"nothing", nil, 50, math.NaN()},
	} {
		if got := Percentile(tt.sorted, tt.p); got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 2, 100}, 3},
		{nil, math.NaN()},
	} {
		if got := Median(tt.values); got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("%v: %v, want %v", tt.values, got, tt.want)
		}
	}
	values := []float64{2, 1}
	if Median(values); values[0] != 2 {
		t.Error("the caller's values were sorted")
	}
}
