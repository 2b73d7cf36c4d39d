package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/attest"
	"cocoon/attest/device"
	"cocoon/gateway"
	"cocoon/internal/daemon"
)

func serve(o options, stderr io.Writer) error {
	cfg, err := load(o)
	if err != nil {
		return err
	}
	ctx, stop := daemon.Context()
	defer stop()
	go daemon.PaceGC(ctx)
	log := daemon.Logger(stderr, cfg.LogLevel)
	if cfg.Attester, err = openTEE(cfg.TEE, log); err != nil {
		return err
	}
	server, err := gateway.New(cfg, log, prometheus.NewRegistry(), daemon.Version(version))
	if err != nil {
		return err
	}
	if err := server.Listen(); err != nil {
		return err
	}
	return server.Run(ctx)
}

// openTEE finds the confidential machine that the gateway runs in; nil if in none.
func openTEE(want string, log *slog.Logger) (attest.Attester, error) {
	if want == gateway.TEENone {
		return nil, nil
	}
	m, err := device.Open(device.Config{Log: log})
	switch {
	case err == nil:
		return m, nil
	case want == gateway.TEERequired:
		return nil, fmt.Errorf("tee: required: %w", err)
	}
	log.Warn("this gateway runs in no confidential machine: answers say Cocoon-Mode: unprotected", "looked", err)
	return nil, nil
}
