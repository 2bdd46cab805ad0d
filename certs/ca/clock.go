// SPDX-License-Identifier: BSD-3-Clause

package ca

import (
	"errors"
	"fmt"
	"time"
)

// skew is how far the clock of a peer may be behind the CA's without a new
// certificate or CRL being of the future to it.
const skew = time.Hour

// ErrClock is wrapped when the clock is certainly wrong.
var ErrClock = errors.New("the clock is wrong")

// CheckClock refuses a time before the one at which this program was made.
func CheckClock(now, built time.Time) error {
	return checkClock(now, built, "this program was made")
}

// checkClock refuses a time before one that has passed: what would be issued
// then is expired, or worse, becomes valid again when a clock is wrong.
func checkClock(now, passed time.Time, what string) error {
	if now.Before(passed) {
		return fmt.Errorf("%w: it says %s, which is before %s (%s)", ErrClock,
			now.UTC().Format(time.RFC3339), what, passed.UTC().Format(time.RFC3339))
	}
	return nil
}
