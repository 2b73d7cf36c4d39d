// Package helper is what the program cocoon-gpu is asked and answers: the driver's library for GPUs needs cgo, which
// no other program of ours has, so that a program of its own calls it.
//
// One request on the helper's standard input, one answer on its standard output, both JSON. What the driver says is in
// words: a value, or why there is none, in the library's own words. An answer is hostile until Parse has checked its
// form; whether GPUs prove anything is for package nvgpu to say.
package helper

import (
	"encoding/hex"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"cocoon/internal/strictjson"
)

// Version is that of Request and Answer.
const Version = 1

// Exit codes of the program.
const (
	ExitAnswered = 0
	ExitFailed   = 1 // a bad request, or no answer could be written
	ExitNoNVML   = 3 // no library of the driver, no driver, or built without cgo
)

// Limits on what is said between the two.
const (
	RequestMax = 1 << 10 // bytes: a request has about 100
	AnswerMax  = 1 << 20 // bytes: 32 GPUs with report and chain, in base64, have 600 KiB
	GPUsMax    = 32      // as many as one set of evidence may have devices
	ReportMax  = 8 << 10 // bytes: the size of NVML's own buffer
	ChainMax   = 5 << 10 // bytes: likewise
	textMax    = 200     // bytes of a value or an error
	nonceLen   = 32
)

// The words for settings. A number that NVML's header of today has no name for becomes "unknown (7)".
const (
	On            = "on"
	Off           = "off"
	Production    = "production"
	Simulation    = "simulation"
	Unavailable   = "unavailable"
	ProtectedPCIe = "protected PCIe"
	NVLE          = "NVLE"
	None          = "none"
)

// Request asks for the state of the GPUs.
type Request struct {
	V int `json:"v"`
	// Nonce is 64 lower-case hex digits, or empty: then no report is made.
	Nonce string `json:"nonce"`
	// Ready true lets applications use the GPUs, once whoever asks has appraised their evidence. It takes root.
	Ready bool `json:"ready,omitempty"`
}

// ParseRequest reads a request, with its nonce as bytes: 32 or none.
func ParseRequest(text []byte) (Request, []byte, error) {
	var r Request
	if err := decode(text, RequestMax, &r); err != nil {
		return Request{}, nil, fmt.Errorf("request: %w", err)
	}
	if r.V != Version {
		return Request{}, nil, fmt.Errorf("request: version %d, want %d", r.V, Version)
	}
	nonce, err := hex.DecodeString(r.Nonce)
	if err != nil || hex.EncodeToString(nonce) != r.Nonce || (len(nonce) != 0 && len(nonce) != nonceLen) {
		return Request{}, nil, errors.New("request: the nonce is not 64 lower-case hex digits, nor empty")
	}
	return r, nonce, nil
}

// Value is what was found, or why nothing was.
type Value struct {
	Is    string `json:"is,omitempty"`
	Error string `json:"error,omitempty"`
}

// String is for people.
func (v Value) String() string {
	if v.Error != "" {
		return "not known: " + v.Error
	}
	return v.Is
}

// Blob is bytes, or why there are none.
type Blob struct {
	Data  []byte `json:"data,omitempty"`
	Error string `json:"error,omitempty"`
}

// Answer is the state of the driver and of all GPUs that it knows.
type Answer struct {
	V      int   `json:"v"`
	Driver Value `json:"driver"` // its version, "580.95.05"
	NVML   Value `json:"nvml"`   // its library's, likewise
	// Environment is Production, Simulation or Unavailable.
	Environment Value `json:"environment"`
	// Feature says whether confidential computing is On. With ProtectedPCIe it may be Off, see MultiGPU.
	Feature  Value `json:"feature"`
	DevTools Value `json:"devtools"`  // On: debugging, hence no confidentiality
	MultiGPU Value `json:"multi_gpu"` // None, ProtectedPCIe or NVLE
	CPU      Value `json:"cpu"`       // what the driver takes the CPU for: "AMD SEV-SNP"
	// Capable says whether all GPUs can do confidential computing.
	Capable Value `json:"capable"`
	Ready   Value `json:"ready"` // On: applications may use the GPUs
	GPUs    []GPU `json:"gpus"`
}

// GPU is one GPU, in NVML's order.
type GPU struct {
	Name   Value `json:"name"`
	UUID   Value `json:"uuid"`
	Serial Value `json:"serial"`
	Report Blob  `json:"report,omitzero"` // SPDM exchange over the nonce
	Chain  Blob  `json:"chain,omitzero"`  // PEM, leaf first
}

// Parse reads an answer and checks its form: sizes, printable text, and that each item is a value or an error. nonce
// says whether one was sent: then each GPU must have report and chain, or errors in their place.
func Parse(text []byte, nonce bool) (*Answer, error) {
	a := new(Answer)
	if err := decode(text, AnswerMax, a); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if a.V != Version {
		return nil, fmt.Errorf("answer: version %d, want %d", a.V, Version)
	}
	if len(a.GPUs) > GPUsMax {
		return nil, fmt.Errorf("answer: %d GPUs, at most %d", len(a.GPUs), GPUsMax)
	}
	for _, field := range []struct {
		name  string
		value Value
	}{
		{"driver", a.Driver},
		{"nvml", a.NVML},
		{"environment", a.Environment},
		{"feature", a.Feature},
		{"devtools", a.DevTools},
		{"multi_gpu", a.MultiGPU},
		{"cpu", a.CPU},
		{"capable", a.Capable},
		{"ready", a.Ready},
	} {
		if err := field.value.check(); err != nil {
			return nil, fmt.Errorf("answer: %s: %w", field.name, err)
		}
	}
	for i, g := range a.GPUs {
		if err := g.check(nonce); err != nil {
			return nil, fmt.Errorf("answer: GPU %d: %w", i, err)
		}
	}
	return a, nil
}

func (g *GPU) check(nonce bool) error {
	for _, v := range []Value{g.Name, g.UUID, g.Serial} {
		if err := v.check(); err != nil {
			return err
		}
	}
	if err := g.Report.check(ReportMax, nonce); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := g.Chain.check(ChainMax, nonce); err != nil {
		return fmt.Errorf("chain: %w", err)
	}
	return nil
}

func (v Value) check() error {
	if (v.Is == "") == (v.Error == "") {
		return errors.New("want a value or an error")
	}
	if !printable(v.Is) || !printable(v.Error) {
		return errors.New("want short printable text")
	}
	return nil
}

func (b Blob) check(limit int, wanted bool) error {
	switch {
	case len(b.Data) > limit:
		return fmt.Errorf("%d bytes, at most %d", len(b.Data), limit)
	case !wanted && (len(b.Data) != 0 || b.Error != ""):
		return errors.New("it was not asked for")
	case wanted && (len(b.Data) == 0) == (b.Error == ""):
		return errors.New("want bytes or an error")
	case !printable(b.Error):
		return errors.New("want short printable text")
	}
	return nil
}

// printable keeps what the helper says out of the way of terminals and logs.
func printable(s string) bool {
	if len(s) > textMax || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// decode reads one JSON value: no unknown member, nothing after it.
func decode(text []byte, limit int, v any) error {
	if len(text) > limit {
		return fmt.Errorf("more than %d bytes", limit)
	}
	return strictjson.Decode(text, v)
}
