// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"math"
	"slices"
)

// Percentile returns the smallest of the sorted values that p percent of them
// do not exceed (the nearest rank), and NaN if there are none.
func Percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Median returns the middle of the values, and NaN if there are none. They
// need not be sorted; of an even number it is the mean of the two in the
// middle.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}
