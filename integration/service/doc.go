// SPDX-License-Identifier: BSD-3-Clause

// Package service tests the daemons as the service manager runs them: the
// units, their sandbox, and what a restart costs.
package service
