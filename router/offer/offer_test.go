package offer

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func sheet() Sheet {
	return Sheet{V: Version, Version: 1, Name: "w1", Offers: []Offer{{
		Model: "org/model:7b", WeightsDigest: "sha256:" + strings.Repeat("ab", 32), Engine: "ollama 0.17.4",
		ContextTokens: 4096, Features: []string{FeatureChat}, Price: Price{In: 10, Cached: 1, Out: 30}, Slots: 4, Capacity: 16,
	}}}
}

func TestValidate(t *testing.T) {
	s := sheet()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateQuantization(t *testing.T) {
	for _, word := range []string{"", "int4", "int8", "fp4", "fp6", "fp8", "fp16", "bf16", "fp32"} {
		s := sheet()
		s.Offers[0].Quantization = word
		if err := s.Validate(); err != nil || ValidQuantization(word) != (word != "") {
			t.Errorf("%q: %v", word, err)
		}
		text, err := json.Marshal(s)
		if err != nil || strings.Contains(string(text), "quantization") != (word != "") {
			t.Errorf("%q: %s, %v", word, text, err)
		}
	}
}

func TestValidatePayout(t *testing.T) {
	for _, p := range []Payout{
		{Address: "UQAxHMwGbQNwCMLpOWXiZvMQFdXbcVbbzQnIeTyThnQvTjBp", MinNanoTON: 500_000_000, EverySeconds: 7 * 24 * 3600},
		{Address: "0:" + strings.Repeat("0f", 32)},
	} {
		s := sheet()
		s.Payout = &p
		if err := s.Validate(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	plain, err := json.Marshal(sheet())
	if err != nil || strings.Contains(string(plain), "payout") {
		t.Errorf("a sheet without a payout: %s, %v", plain, err)
	}
}

func TestValidateRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Sheet){
		"other version":     func(s *Sheet) { s.V = 2 },
		"no name":           func(s *Sheet) { s.Name = "" },
		"name with newline": func(s *Sheet) { s.Name = "a\nb" },
		"model with space":  func(s *Sheet) { s.Offers[0].Model = "a b" },
		"steers a terminal": func(s *Sheet) { s.Offers[0].Model = "m\u009b2J" },
		"runs backwards":    func(s *Sheet) { s.Name = "w\u202e1" },
		"unknown quantum":   func(s *Sheet) { s.Offers[0].Quantization = "int5" },
		"upper-case word":   func(s *Sheet) { s.Offers[0].Quantization = "FP8" },
		"model with quote":  func(s *Sheet) { s.Offers[0].Model = `a"b` },
		"long model":        func(s *Sheet) { s.Offers[0].Model = strings.Repeat("m", NameMax+1) },
		"twice":             func(s *Sheet) { s.Offers = append(s.Offers, s.Offers[0]) },
		"too many":          func(s *Sheet) { s.Offers = make([]Offer, OffersMax+1) },
		"short digest":      func(s *Sheet) { s.Offers[0].WeightsDigest = "sha256:ab" },
		"upper-case digest": func(s *Sheet) { s.Offers[0].WeightsDigest = "sha256:" + strings.Repeat("AB", 32) },
		"negative price":    func(s *Sheet) { s.Offers[0].Price.Out = -1 },
		"huge price":        func(s *Sheet) { s.Offers[0].Price.In = PriceMax + 1 },
		"no slots":          func(s *Sheet) { s.Offers[0].Slots = 0 },
		"capacity < slots":  func(s *Sheet) { s.Offers[0].Capacity = 1 },
		"huge capacity":     func(s *Sheet) { s.Offers[0].Capacity = CapacityMax + 1 },
		"no context":        func(s *Sheet) { s.Offers[0].ContextTokens = 0 },
		"negative load":     func(s *Sheet) { s.Load.Queued = -1 },
		"no payout address": func(s *Sheet) { s.Payout = &Payout{} },
		"a long address":    func(s *Sheet) { s.Payout = &Payout{Address: strings.Repeat("a", AddressMax+1)} },
		"address in two":    func(s *Sheet) { s.Payout = &Payout{Address: "UQ\nUQ"} },
		"payouts of less":   func(s *Sheet) { s.Payout = &Payout{Address: "UQ", MinNanoTON: -1} },
		"payouts backwards": func(s *Sheet) { s.Payout = &Payout{Address: "UQ", EverySeconds: -1} },
		"payouts never":     func(s *Sheet) { s.Payout = &Payout{Address: "UQ", EverySeconds: PayoutEveryMax + 1} },
	} {
		t.Run(name, func(t *testing.T) {
			s := sheet()
			spoil(&s)
			if err := s.Validate(); !errors.Is(err, ErrInvalid) {
				t.Errorf("Validate() = %v, want ErrInvalid", err)
			}
		})
	}
}

func FuzzSheet(f *testing.F) {
	good, err := json.Marshal(sheet())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"v":1,"name":"x","offers":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Sheet
		if json.Unmarshal(b, &s) != nil {
			return
		}
		if s.Validate() == nil && (len(s.Offers) > OffersMax || s.Payout != nil && len(s.Payout.Address) > AddressMax) {
			t.Fatal("a sheet beyond its limit passed")
		}
	})
}
