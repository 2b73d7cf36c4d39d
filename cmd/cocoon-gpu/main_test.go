package main

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/attest/device/helper"
)

// start runs the program.
func start(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelp(t *testing.T) {
	for _, arg := range []string{"help", "-h", "--help"} {
		if code, out, errs := start("", arg); code != 0 || !strings.Contains(out, "survey") || errs != "" {
			t.Errorf("%s: %d, %q, %q", arg, code, out, errs)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for name, c := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"nothing":  {"", nil, "request: EOF"},
		"version":  {`{"v":2,"nonce":""}`, nil, "version 2, want 1"},
		"nonce":    {`{"v":1,"nonce":"abc"}`, nil, "the nonce is not"},
		"endless":  {strings.Repeat(" ", 1<<20), nil, "more than 1024 bytes"},
		"argument": {"", []string{"attest"}, "see 'cocoon-gpu help'"},
		"two":      {"", []string{"survey", "all"}, "see 'cocoon-gpu help'"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := start(c.stdin, c.args...)
			if code != helper.ExitFailed || out != "" || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
				t.Errorf("got %d, %q, %q, want %s", code, out, errs, c.want)
			}
		})
	}
}

// TestThisMachine asks the driver, if there is one.
func TestThisMachine(t *testing.T) {
	nonce := strings.Repeat("5a", 32)
	for name, c := range map[string]struct {
		stdin string
		args  []string
	}{
		"state":   {`{"v":1,"nonce":""}`, nil},
		"reports": {`{"v":1,"nonce":"` + nonce + `"}`, nil},
		"survey":  {"", []string{"survey"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := start(c.stdin, c.args...)
			switch code {
			case helper.ExitNoNVML:
				if out != "" || !strings.Contains(errs, "NVIDIA") || strings.Count(errs, "\n") != 1 {
					t.Errorf("got %q, %q", out, errs)
				}
			case helper.ExitAnswered:
				t.Log(out)
				if c.stdin == "" {
					break
				}
				if _, err := helper.Parse([]byte(out), strings.Contains(c.stdin, nonce)); err != nil {
					t.Error(err)
				}
			default:
				t.Errorf("got %d, %q, %q", code, out, errs)
			}
		})
	}
}
