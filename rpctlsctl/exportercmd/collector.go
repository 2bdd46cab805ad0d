// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package exportercmd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rpctls/internal/control"
	"rpctls/internal/metrics"
	"rpctls/internal/tlsstat"
)

// The names of the metrics. Dashboards and alerts use them: they do not change.
const (
	nameUp          = "rpctls_up"
	nameInfo        = "rpctls_build_info"
	nameStart       = "rpctls_start_time_seconds"
	nameHandshakes  = "rpctls_handshakes_total"
	nameDuration    = "rpctls_handshake_duration_seconds"
	nameInProgress  = "rpctls_handshakes_in_progress"
	nameHalfOpen    = "rpctls_handshakes_half_open"
	nameLimit       = "rpctls_handshakes_limit"
	nameUpcalls     = "rpctls_upcalls_total"
	nameDrops       = "rpctls_upcalls_dropped_total"
	nameReloads     = "rpctls_reloads_total"
	nameIdentity    = "rpctls_identity_expiry_timestamp_seconds"
	nameCRL         = "rpctls_crl_next_update_timestamp_seconds"
	nameRivals      = "rpctls_other_agents"
	nameThreads     = "rpctls_nfsd_threads"
	nameSessions    = "rpctls_sessions"
	nameKeyLog      = "rpctls_keylog_active"
	nameKernelUp    = "rpctls_kernel_tls_loaded"
	nameKernel      = "rpctls_kernel_tls_sessions"
	nameKernelTotal = "rpctls_kernel_tls_sessions_opened_total"
	nameKernelError = "rpctls_kernel_tls_errors_total"
)

// The labels.
const (
	labelRole      = "role"
	labelResult    = "result"
	labelReason    = "reason"
	labelCipher    = "cipher"
	labelGroup     = "group"
	labelPart      = "part"
	labelOutcome   = "outcome"
	labelTrigger   = "trigger"
	labelWhat      = "what"
	labelIdentity  = "identity"
	labelFile      = "file"
	labelVersion   = "version"
	labelDirection = "direction"
	labelMode      = "mode"
	labelError     = "error"
)

// descs has a description for each name, made once.
var descs = make(map[string]*prometheus.Desc)

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(name, help, labels, nil)
	descs[name] = d
	return d
}

var (
	descUp          = describe(nameUp, "Whether the daemon of that role answers.", labelRole)
	descInfo        = describe(nameInfo, "The daemon's version.", labelRole, labelVersion)
	descStart       = describe(nameStart, "When the daemon began, as a Unix time.", labelRole)
	descHandshakes  = describe(nameHandshakes, "Handshakes, by what became of them.", labelRole, labelResult, labelReason, labelCipher, labelGroup)
	descDuration    = describe(nameDuration, "What handshakes took, in parts: queue, network and computing.", labelRole, labelResult, labelPart)
	descInProgress  = describe(nameInProgress, "Requests of the kernel that are being served.", labelRole)
	descHalfOpen    = describe(nameHalfOpen, "Of those, the ones whose peer has said nothing yet.", labelRole)
	descLimit       = describe(nameLimit, "The most requests that may be served at once.", labelRole)
	descUpcalls     = describe(nameUpcalls, "Requests of the kernel, by what happened to them.", labelRole, labelOutcome)
	descDrops       = describe(nameDrops, "Requests lost on the way: in ACCEPT, or with notifications that did not fit (ENOBUFS).", labelRole, labelWhat)
	descReloads     = describe(nameReloads, "Attempts to load configuration or files anew.", labelRole, labelTrigger, labelOutcome)
	descIdentity    = describe(nameIdentity, "When a certificate of this host expires, as a Unix time.", labelRole, labelIdentity)
	descCRL         = describe(nameCRL, "When a CRL is to be replaced by a newer one, as a Unix time.", labelRole, labelFile)
	descRivals      = describe(nameRivals, "Other programs that answer the kernel's handshake requests.", labelRole)
	descThreads     = describe(nameThreads, "Threads of the kernel's NFS server.")
	descSessions    = describe(nameSessions, "TLS sessions that the daemon knows to be alive.", labelRole)
	descKeyLog      = describe(nameKeyLog, "Whether a process is being given TLS secrets (rpctlsctl debug keylog).", labelRole)
	descKernelUp    = describe(nameKernelUp, "Whether the kernel's TLS is loaded.")
	descKernel      = describe(nameKernel, "TLS sessions that the kernel has, of anybody on this host.", labelDirection, labelMode)
	descKernelTotal = describe(nameKernelTotal, "TLS sessions that the kernel has had.", labelDirection, labelMode)
	descKernelError = describe(nameKernelError, "Errors of the kernel's TLS.", labelError)
)

// Names returns the names of all metrics, sorted, a histogram's as it is written
// in queries.
func Names() (list []string) {
	for name := range descs {
		if name == nameDuration {
			list = append(list, name+"_bucket", name+"_sum", name+"_count")
			continue
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// daemons are whom the collector asks, by their roles.
var daemons = map[string]string{"client": "rpctlscd", "server": "rpctlssd"}

// askTimeout is how long each daemon has for its answer: far less than
// Prometheus waits for a scrape.
const askTimeout = 2 * time.Second

// A collector asks the daemons whenever it is asked. It holds nothing.
type collector struct {
	directory string // of the daemons' sockets
	timeout   time.Duration
	kernel    func() (tlsstat.Counters, error)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	var all sync.WaitGroup
	for role, daemon := range daemons {
		all.Go(func() {
			var a metrics.Answer
			if err := c.ask(daemon, &a); err != nil {
				ch <- prometheus.MustNewConstMetric(descUp, prometheus.GaugeValue, 0, role)
				return
			}
			send(ch, role, a)
		})
	}
	c.collectKernel(ch)
	all.Wait()
}

func (c *collector) ask(daemon string, a *metrics.Answer) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	client, err := control.DialPath(ctx, metrics.Path(c.directory, daemon), daemon)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Call(metrics.Op, nil, a)
}

// send makes metrics of an answer. What the daemon says is measured against the
// sets that this program knows: another version of it, or another program, makes
// no label of its own.
func send(ch chan<- prometheus.Metric, role string, a metrics.Answer) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descUp, 1, role)
	gauge(descInfo, 1, role, word(a.Version))
	gauge(descStart, float64(a.Since.UnixMilli())/1000, role)
	sendHandshakes(counter, role, a.Handshakes)
	sendDurations(ch, role, a)
	gauge(descInProgress, float64(a.InProgress), role)
	gauge(descHalfOpen, float64(a.HalfOpen), role)
	gauge(descLimit, float64(a.Limit), role)
	u := a.Upcalls
	for outcome, n := range map[string]uint64{
		"announced": u.Announced, "accepted": u.Accepted, "adopted": u.Adopted, "handed_over": u.HandedOver, "refused": u.Refused,
	} {
		counter(descUpcalls, n, role, outcome)
	}
	counter(descDrops, u.Lost, role, "accept")
	counter(descDrops, u.Overflows, role, "notification")
	reloads := make(map[[2]string]uint64)
	for _, r := range a.Reloads {
		reloads[[2]string{string(r.Trigger), r.Outcome}] += r.Count
	}
	for _, t := range metrics.Triggers() {
		for _, o := range []string{metrics.Loaded, metrics.Refused} {
			counter(descReloads, reloads[[2]string{string(t), o}], role, string(t), o)
		}
	}
	for d, list := range map[*prometheus.Desc][]metrics.Expiry{descIdentity: a.Identities, descCRL: a.CRLs} {
		seen := make(map[string]bool)
		for _, e := range list[:min(len(list), metrics.MaxExpiries)] {
			if name := word(e.Name); !seen[name] {
				seen[name] = true
				gauge(d, float64(e.At.Unix()), role, name)
			}
		}
	}
	keylog := 0.0
	if a.KeyLog {
		keylog = 1
	}
	gauge(descKeyLog, keylog, role)
	gauge(descRivals, float64(a.Rivals), role)
	if a.Threads != nil && role == "server" {
		gauge(descThreads, float64(*a.Threads))
	}
	if a.Sessions != nil {
		gauge(descSessions, float64(*a.Sessions), role)
	}
}

// maxWord bounds what the configuration of a daemon names.
const maxWord = 256

// word makes of a text what a label may be: valid UTF-8, and not without end.
func word(s string) string {
	s = s[:min(len(s), maxWord)]
	return string([]rune(s))
}

func among(set []string, s string) string {
	if slices.Contains(set, s) {
		return s
	}
	return metrics.Other
}

// sendHandshakes sends a counter for each reason, also of those that have not
// occurred: a first failure is an increase, and not a series that appears.
func sendHandshakes(counter func(*prometheus.Desc, uint64, ...string), role string, counts []metrics.Count) {
	type key struct{ reason, cipher, group string }
	sums := make(map[key]uint64)
	for _, r := range metrics.Reasons() {
		if r != okReason {
			sums[key{r, metrics.None, metrics.None}] = 0
		}
	}
	reasons, ciphers, groups := metrics.Reasons(), metrics.Ciphers(), metrics.Groups()
	for _, c := range counts {
		sums[key{among(reasons, c.Reason), among(ciphers, c.Cipher), among(groups, c.Group)}] += c.Count
	}
	for k, n := range sums {
		result := metrics.Failure
		if k.reason == okReason {
			result = metrics.Success
		}
		counter(descHandshakes, n, role, result, k.reason, k.cipher, k.group)
	}
}

// okReason is the reason of what succeeded.
const okReason = "ok"

// sendDurations sends the histograms that are what they should be.
func sendDurations(ch chan<- prometheus.Metric, role string, a metrics.Answer) {
	if !slices.IsSorted(a.Bounds) || len(a.Bounds) > 64 {
		return
	}
	type key struct {
		result string
		part   metrics.Part
	}
	seen := make(map[key]bool)
	for _, d := range a.Durations {
		k := key{d.Result, d.Part}
		if seen[k] || !slices.Contains(metrics.Results(), d.Result) || !slices.Contains(metrics.Parts(), d.Part) || len(d.Counts) != len(a.Bounds)+1 {
			continue
		}
		seen[k] = true
		buckets := make(map[float64]uint64)
		total := uint64(0)
		for i, n := range d.Counts {
			total += n
			if i < len(a.Bounds) {
				buckets[a.Bounds[i]] = total
			}
		}
		ch <- prometheus.MustNewConstHistogram(descDuration, total, d.Sum, buckets, role, d.Result, string(d.Part))
	}
}

// Of the kernel's counters, by its names (include/uapi/linux/snmp.h).
var (
	kernelSessions = map[string][2]string{
		"TlsCurrTxSw": {"tx", "software"}, "TlsCurrRxSw": {"rx", "software"},
		"TlsCurrTxDevice": {"tx", "device"}, "TlsCurrRxDevice": {"rx", "device"},
	}
	kernelOpened = map[string][2]string{
		"TlsTxSw": {"tx", "software"}, "TlsRxSw": {"rx", "software"},
		"TlsTxDevice": {"tx", "device"}, "TlsRxDevice": {"rx", "device"},
	}
	kernelErrors = map[string]string{
		"TlsDecryptError": "decrypt", "TlsDecryptRetry": "decrypt_retry", "TlsRxDeviceResync": "device_resync",
		"TlsRxNoPadViolation": "no_pad_violation", "TlsRxRekeyError": "rx_rekey", "TlsTxRekeyError": "tx_rekey",
	}
)

// collectKernel needs no daemon: the file is everybody's to read.
func (c *collector) collectKernel(ch chan<- prometheus.Metric) {
	counters, err := c.kernel()
	loaded := 1.0
	if err != nil {
		loaded = 0
	}
	ch <- prometheus.MustNewConstMetric(descKernelUp, prometheus.GaugeValue, loaded)
	for name, n := range counters {
		v := float64(n)
		if l, ok := kernelSessions[name]; ok {
			ch <- prometheus.MustNewConstMetric(descKernel, prometheus.GaugeValue, v, l[0], l[1])
		} else if l, ok := kernelOpened[name]; ok {
			ch <- prometheus.MustNewConstMetric(descKernelTotal, prometheus.CounterValue, v, l[0], l[1])
		} else if l, ok := kernelErrors[name]; ok {
			ch <- prometheus.MustNewConstMetric(descKernelError, prometheus.CounterValue, v, l)
		}
	}
}
