// Command cocoon-gpu asks NVIDIA's driver for the state and the attestation reports of this machine's GPUs. It is the
// one program of ours with cgo, which the driver's library needs: the worker runs it and reads its answer. See package
// attest/device/helper for both.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"cocoon/attest/device/helper"
)

const usage = `cocoon-gpu: asks NVIDIA's driver about confidential computing. Workers run it; people can.

  cocoon-gpu survey  the state of the driver and of each GPU, in words
  cocoon-gpu         reads a request, {"v":1,"nonce":"<64 hex digits, or empty>"}, and prints an answer, both JSON

Exit status: 0 answered, 3 no driver (or built without cgo), 1 anything else.
`

// noNVMLError means that there is no driver to ask. Its text says what is missing.
type noNVMLError struct{ reason string }

func (e *noNVMLError) Error() string { return e.reason }

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	err := dispatch(args, stdin, stdout)
	if err == nil {
		return helper.ExitAnswered
	}
	fmt.Fprintln(stderr, "cocoon-gpu:", err)
	if _, ok := errors.AsType[*noNVMLError](err); ok {
		return helper.ExitNoNVML
	}
	return helper.ExitFailed
}

func dispatch(args []string, stdin io.Reader, stdout io.Writer) error {
	switch {
	case len(args) == 0:
		return answer(stdin, stdout)
	case len(args) == 1 && args[0] == "survey":
		return survey(stdout)
	case len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help"):
		_, err := io.WriteString(stdout, usage)
		return err
	}
	return errors.New("see 'cocoon-gpu help'")
}

func answer(stdin io.Reader, stdout io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(stdin, helper.RequestMax+1))
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	request, nonce, err := helper.ParseRequest(text)
	if err != nil {
		return err
	}
	a, err := ask(nonce, request.Ready)
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(a)
}

func survey(stdout io.Writer) error {
	a, err := ask(nil, false)
	if err != nil {
		return err
	}
	for _, line := range []struct {
		name  string
		value helper.Value
	}{
		{"driver", a.Driver},
		{"NVML", a.NVML},
		{"confidential computing", a.Feature},
		{"environment", a.Environment},
		{"DevTools", a.DevTools},
		{"multi-GPU mode", a.MultiGPU},
		{"CPU, as the driver sees it", a.CPU},
		{"GPUs capable", a.Capable},
		{"GPUs accept work", a.Ready},
	} {
		fmt.Fprintf(stdout, "%-27s %s\n", line.name, line.value)
	}
	for i, g := range a.GPUs {
		fmt.Fprintf(stdout, "%-27s %s, %s, serial number %s\n", fmt.Sprintf("GPU %d", i), g.Name, g.UUID, g.Serial)
	}
	_, err = fmt.Fprintf(stdout, "%-27s out of reach: NVML has no evidence of them, NVIDIA's NSCQ does\n", "NVSwitches")
	return err
}
