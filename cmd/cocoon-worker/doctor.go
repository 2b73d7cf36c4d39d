package main

import (
	"context"
	"fmt"
	"io"

	"cocoon/attest/device"
	"cocoon/worker"
)

func doctor(ctx context.Context, c worker.Config, stdout, _ io.Writer) error {
	h := worker.Hardware{}
	for _, f := range device.Survey(ctx, device.Config{}) {
		result := worker.Info
		if f.OK {
			result = worker.Pass
		}
		h.Found = append(h.Found, worker.Check{Name: f.Name, Result: result, Detail: f.Text})
	}
	if machine, err := device.Open(device.Config{}); err != nil {
		h.Missing = err
	} else {
		h.Attester = machine
	}
	if !worker.Doctor(ctx, c, h, func(check worker.Check) { show(stdout, check) }) {
		return errUnwell
	}
	return nil
}

// show writes one line of the doctor's.
func show(w io.Writer, c worker.Check) { fmt.Fprintf(w, "%s  %s: %s\n", c.Result, c.Name, c.Detail) }
