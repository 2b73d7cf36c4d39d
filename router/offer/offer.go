// Package offer is what a worker tells its gateways it sells: the wire types and their checks.
package offer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cocoon/internal/nanoton"
)

// Limits of a sheet. A worker is a peer: what it sends is hostile until Validate has passed.
const (
	// OffersMax bounds the models of one worker, so that one peer can't fill the table.
	OffersMax = 256
	// NameMax bounds model and worker names, bytes; longer names are no names.
	NameMax = 256
	// FeaturesMax bounds the features of one offer.
	FeaturesMax = 32
	// CapacityMax bounds the requests one worker may claim to take at once.
	CapacityMax = 100_000
	// ContextMax bounds a claimed context window, tokens.
	ContextMax = 1 << 27
	// PriceMax bounds a price, nanoTON per million tokens: 1,000 TON.
	PriceMax = 1000 * nanoton.PerTON
	// VouchersMax bounds the vouchers of a sheet, one for each gateway that a worker may serve, and VoucherMax each, bytes:
	// one has some 250.
	VouchersMax = 64
	VoucherMax  = 1 << 10
	// AddressMax bounds the text of a payout address, bytes: the raw form, the longest, has 67 with a short workchain.
	AddressMax = 80
	// PayoutEveryMax bounds the time between payouts, seconds: a year. Whoever wants longer asks for a higher amount.
	PayoutEveryMax = 366 * 24 * 3600
)

// Version is the version of the sheet that this code speaks.
const Version = 1

// Features that an offer can name. Unknown ones are kept and ignored.
const (
	FeatureChat       = "chat"
	FeatureTools      = "tools"
	FeatureVision     = "vision"
	FeatureThinking   = "thinking"
	FeatureJSONSchema = "json_schema"
	FeatureLogprobs   = "logprobs"
)

// Price is what a worker asks, nanoTON per million tokens. Cached is for input tokens that the
// engine found in its prefix cache.
type Price struct {
	In     nanoton.Amount `json:"in" yaml:"in"`
	Cached nanoton.Amount `json:"cached" yaml:"cached"`
	Out    nanoton.Amount `json:"out" yaml:"out"`
}

// Offer is one model that a worker sells.
type Offer struct {
	// Model is the name that clients ask for.
	Model string `json:"model"`
	// WeightsDigest is "sha256:" and the hex digest of the weights, or empty when the engine can't tell.
	WeightsDigest string `json:"weights_digest,omitempty"`
	// Engine is the inference server and its version, such as "ollama 0.17.4".
	Engine string `json:"engine"`
	// ContextTokens is the window that the engine runs the model with: prompt and answer together.
	ContextTokens int `json:"context_tokens"`
	// Features names what the model can do beyond plain text.
	Features []string `json:"features"`
	// Quantization is how coarse the weights are, in one of the words that ValidQuantization knows; empty: not known. It is
	// the worker's word.
	Quantization string `json:"quantization,omitempty"`
	// Price is in nanoTON per million tokens.
	Price Price `json:"price"`
	// Slots is how many requests the engine runs at once; Capacity adds those that the worker lets wait.
	Slots    int `json:"slots"`
	Capacity int `json:"capacity"`
}

// Load is how busy a worker says it is, over all its models and gateways.
type Load struct {
	Running int `json:"running"`
	Queued  int `json:"queued"`
}

// Payout is how a worker wants to be paid what it earned.
type Payout struct {
	// Address is where to, as TON's wallets show it. Only its form is checked here: printable, AddressMax bytes at most.
	Address string `json:"address" yaml:"address"`
	// MinNanoTON is the least that is worth a transfer; less waits. Zero leaves it to the gateway.
	MinNanoTON nanoton.Amount `json:"min_nanoton,omitempty" yaml:"min_nanoton"`
	// EverySeconds is the least time between two payouts. Zero leaves it to the gateway.
	EverySeconds int64 `json:"every_seconds,omitempty" yaml:"every_seconds"`
}

// Validate checks that the address has the form of a text, and that the numbers are in range.
func (p *Payout) Validate() error {
	switch {
	case p.Address == "" || len(p.Address) > AddressMax || strings.Trim(p.Address, addressLetters) != "":
		return fmt.Errorf("payout address %q", clip(p.Address))
	case p.MinNanoTON < 0:
		return fmt.Errorf("payouts of at least %d nanoTON", int64(p.MinNanoTON))
	case p.EverySeconds < 0 || p.EverySeconds > PayoutEveryMax:
		return fmt.Errorf("payouts every %d seconds", p.EverySeconds)
	}
	return nil
}

// addressLetters are in addresses: base64 in both alphabets, and the raw form's colon and sign.
const addressLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=:"

// Sheet is everything a worker offers at one moment. A higher Version replaces a lower one whole.
type Sheet struct {
	V        int     `json:"v"`
	Version  uint64  `json:"version"`
	Name     string  `json:"name"`
	Draining bool    `json:"draining,omitempty"`
	Offers   []Offer `json:"offers"`
	Load     Load    `json:"load"`
	// Payout is where the worker's earnings go; nil: the worker has named no address, and they stay with the gateway.
	Payout *Payout `json:"payout,omitempty"`
	// Vouchers are the newest that gateways signed for this worker, as contracts take them (bags of cells): proof of what
	// they owed, should one of them have lost its books. Each gateway knows its own.
	Vouchers [][]byte `json:"vouchers,omitempty"`
}

// ErrInvalid marks a sheet that breaks a limit or contradicts itself.
var ErrInvalid = errors.New("invalid offer sheet")

// Validate checks every limit; the error says which field is off and how.
func (s *Sheet) Validate() error {
	switch {
	case s.V != Version:
		return fmt.Errorf("%w: v is %d, want %d", ErrInvalid, s.V, Version)
	case !validName(s.Name):
		return fmt.Errorf("%w: name %q", ErrInvalid, clip(s.Name))
	case len(s.Offers) > OffersMax:
		return fmt.Errorf("%w: %d offers, at most %d", ErrInvalid, len(s.Offers), OffersMax)
	case s.Load.Running < 0 || s.Load.Queued < 0:
		return fmt.Errorf("%w: negative load", ErrInvalid)
	case len(s.Vouchers) > VouchersMax || slices.ContainsFunc(s.Vouchers, func(v []byte) bool { return len(v) > VoucherMax }):
		return fmt.Errorf("%w: more than %d vouchers, or one of more than %d bytes", ErrInvalid, VouchersMax, VoucherMax)
	}
	if s.Payout != nil {
		if err := s.Payout.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	seen := make(map[string]bool, len(s.Offers))
	for i := range s.Offers {
		o := &s.Offers[i]
		if seen[o.Model] {
			return fmt.Errorf("%w: model %q offered twice", ErrInvalid, clip(o.Model))
		}
		seen[o.Model] = true
		if err := o.validate(); err != nil {
			return fmt.Errorf("%w: offer of %q: %w", ErrInvalid, clip(o.Model), err)
		}
	}
	return nil
}

func (o *Offer) validate() error {
	switch {
	case !validName(o.Model):
		return errors.New("model name empty, too long or not printable")
	case o.WeightsDigest != "" && !validDigest(o.WeightsDigest):
		return errors.New("weights_digest is not sha256: and 64 hex digits")
	case len(o.Engine) > NameMax:
		return errors.New("engine name too long")
	case o.ContextTokens < 1 || o.ContextTokens > ContextMax:
		return fmt.Errorf("context_tokens %d out of range", o.ContextTokens)
	case len(o.Features) > FeaturesMax:
		return fmt.Errorf("%d features, at most %d", len(o.Features), FeaturesMax)
	case o.Quantization != "" && !ValidQuantization(o.Quantization):
		return fmt.Errorf("quantization %q, want int4, int8, fp4, fp6, fp8, fp16, bf16, fp32 or none", clip(o.Quantization))
	case o.Slots < 1 || o.Capacity < o.Slots || o.Capacity > CapacityMax:
		return fmt.Errorf("slots %d, capacity %d out of range", o.Slots, o.Capacity)
	}
	return o.Price.Validate()
}

// ValidQuantization tells whether a word names a quantization, as OpenRouter names them: int4, int8, fp4, fp6, fp8, fp16,
// bf16 or fp32. "unknown", which it knows too, is the empty word here.
func ValidQuantization(word string) bool {
	switch word {
	case "int4", "int8", "fp4", "fp6", "fp8", "fp16", "bf16", "fp32":
		return true
	}
	return false
}

// Validate checks that each part of the price is between zero and PriceMax.
func (p Price) Validate() error {
	for _, a := range []nanoton.Amount{p.In, p.Cached, p.Out} {
		if a < 0 || a > PriceMax {
			return fmt.Errorf("price %d nanoTON per million tokens out of range", int64(a))
		}
	}
	return nil
}

func validName(s string) bool {
	if s == "" || len(s) > NameMax || !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) || r == '"' || r == '\\' }) < 0
}

func validDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 {
		return false
	}
	return strings.Trim(hex, "0123456789abcdef") == ""
}

func clip(s string) string { return s[:min(len(s), 64)] }
