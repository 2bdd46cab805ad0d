// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package exportercmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpctls/internal/metrics"
	"rpctls/internal/tlsstat"
	"rpctls/rpctlsctl/cli"
)

// defaultListen is for this host alone.
const defaultListen = "127.0.0.1:9920"

// New returns the command.
func New() *cobra.Command {
	var listen, directory string
	cmd := &cobra.Command{
		Use:   "exporter",
		Short: "serve the daemons' metrics in Prometheus' format",
		Long: `Serve the metrics of both daemons, and of the kernel's TLS, at /metrics in
Prometheus' format, until SIGTERM. It needs no right but to be of the group
rpctls-exporter, as the unit rpctls-exporter.service has it. There is no
authentication: whoever can connect can read them.`,
		Args: cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "exporter: listening at http://%s/metrics\n", l.Addr())
			return serve(ctx, l, handler(&collector{directory, askTimeout, tlsstat.Read}))
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", defaultListen, "where to listen (`address:port`)")
	f.StringVar(&directory, "directory", metrics.Directory("/run/rpctls"), "where the daemons answer (`directory`)")
	return cmd
}

// Bounds on what a client may take.
const (
	maxScrapes = 4
	maxHeader  = 8 << 10
	patience   = 10 * time.Second // for a request, for reading the answer
	lingering  = 2 * time.Second  // of the end
)

func handler(c prometheus.Collector) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "rpctls exporter: see /metrics\n") })
	return mux
}

// serve answers until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: 3 * patience, MaxHeaderBytes: maxHeader}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	// Under a service manager; without one there is nobody to tell.
	_, _ = sd.SdNotify(false, sd.SdNotifyReady)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), lingering)
	defer cancel()
	if err := s.Shutdown(end); err != nil {
		s.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
