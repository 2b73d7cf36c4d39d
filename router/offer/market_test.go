package offer

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cocoon/internal/nanoton"
)

func someMarket() Market {
	return Market{V: MarketVersion, Seconds: 3600, FeePPM: 50_000, Models: []ModelMarket{{
		Model: "org/model:7b", Workers: 7, Requests: 12_340, TokensIn: 4_500_000, TokensOut: 1_200_000, SharePPM: 123_000,
		Ask: Price{50, 50, 150}, Lowest: Price{40, 4, 90}, Median: Price{55, 20, 160}, Rank: 3, Considered: 2000, Won: 420,
		At: []PricePoint{{500_000, 1000}, {800_000, 700}, {1_200_000, 100}}, YourTTFT: 230, MedianTTFT: 310, YourSpeed: 45, MedianSpeed: 38,
	}}}
}

func TestMarketValidate(t *testing.T) {
	m := someMarket()
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	none := Market{V: MarketVersion, Seconds: 1}
	if err := none.Validate(); err != nil {
		t.Error(err)
	}
	if err := (&Market{V: MarketVersion, Seconds: 1, Models: []ModelMarket{{Model: "m"}}}).Validate(); err != nil {
		t.Errorf("of a model without demand: %v", err)
	}
	for name, spoil := range map[string]func(*Market){
		"other version":     func(m *Market) { m.V = 2 },
		"no time":           func(m *Market) { m.Seconds = 0 },
		"too long ago":      func(m *Market) { m.Seconds = MarketSecondsMax + 1 },
		"negative fee":      func(m *Market) { m.FeePPM = -1 },
		"fee":               func(m *Market) { m.FeePPM = FeeMax + 1 },
		"too many":          func(m *Market) { m.Models = make([]ModelMarket, OffersMax+1) },
		"twice":             func(m *Market) { m.Models = append(m.Models, m.Models[0]) },
		"no name":           func(m *Market) { m.Models[0].Model = "" },
		"steers a terminal": func(m *Market) { m.Models[0].Model = "m\x1b[2J" },
		"and another":       func(m *Market) { m.Models[0].Model = "m\u009b2J" },
		"workers":           func(m *Market) { m.Models[0].Workers = -1 },
		"requests":          func(m *Market) { m.Models[0].Requests = MarketCountMax + 1 },
		"tokens in":         func(m *Market) { m.Models[0].TokensIn = -1 },
		"tokens out":        func(m *Market) { m.Models[0].TokensOut = TokensMax + 1 },
		"share":             func(m *Market) { m.Models[0].SharePPM = 1_000_001 },
		"rank":              func(m *Market) { m.Models[0].Rank = 8 },
		"sample":            func(m *Market) { m.Models[0].Considered = SampleMax + 1 },
		"won more":          func(m *Market) { m.Models[0].Won = 2001 },
		"negative price":    func(m *Market) { m.Models[0].Ask.In = -1 },
		"lowest":            func(m *Market) { m.Models[0].Lowest.Out = PriceMax + 1 },
		"median":            func(m *Market) { m.Models[0].Median.Cached = math.MinInt64 },
		"too many prices":   func(m *Market) { m.Models[0].At = make([]PricePoint, PointsMax+1) },
		"price of nothing":  func(m *Market) { m.Models[0].At[0].PPM = 0 },
		"price too high":    func(m *Market) { m.Models[0].At[2].PPM = PricePPMMax + 1 },
		"prices in a mess":  func(m *Market) { m.Models[0].At[1].PPM = 500_000 },
		"won more there":    func(m *Market) { m.Models[0].At[1].Won = 2001 },
		"won less than 0":   func(m *Market) { m.Models[0].At[1].Won = -1 },
		"wait":              func(m *Market) { m.Models[0].YourTTFT = -1 },
		"long wait":         func(m *Market) { m.Models[0].MedianTTFT = WaitMax + 1 },
		"speed":             func(m *Market) { m.Models[0].YourSpeed = SpeedMax + 1 },
		"median speed":      func(m *Market) { m.Models[0].MedianSpeed = -5 },
	} {
		m := someMarket()
		spoil(&m)
		if err := m.Validate(); !errors.Is(err, ErrMarket) {
			t.Errorf("%s: %v, want ErrMarket", name, err)
		}
		if _, err := m.Marshal(1 << 20); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// TestMarketMarshal leaves out what is asked for least when there is no room.
func TestMarketMarshal(t *testing.T) {
	m := someMarket()
	for i := range 9 {
		other := m.Models[0]
		other.Model, other.Requests = strings.Repeat("n", i+1), int64(i)
		m.Models = append(m.Models, other)
	}
	whole, err := m.Marshal(64 << 10)
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]int{64 << 10: 10, len(whole): 10, len(whole) - 1: 9, len(whole) / 2: 4, 100: 0} {
		text, err := m.Marshal(limit)
		var back Market
		if err != nil || len(text) > limit || json.Unmarshal(text, &back) != nil || back.Validate() != nil || len(back.Models) != want {
			t.Errorf("in %d bytes: %d bytes, %d models, want %d; %v", limit, len(text), len(back.Models), want, err)
		}
		if want > 1 && (back.Models[0].Requests != 12_340 || back.Models[1].Requests != 8 || back.Models[0].At[1].Won != 700 || back.FeePPM != 50_000) {
			t.Errorf("in %d bytes: %+v", limit, back)
		}
	}
}

func TestBest(t *testing.T) {
	ask := Price{1, 1, 1}
	for name, c := range map[string]struct {
		m    ModelMarket
		want int64 // ppm; 0: nothing to say
	}{
		"nothing":             {ModelMarket{Ask: ask}, 0},
		"no points":           {ModelMarket{Ask: ask, Won: 5}, unit},
		"cheaper":             {ModelMarket{Ask: ask, Won: 10, At: []PricePoint{{500_000, 21}, {2_000_000, 4}}}, 500_000},
		"dearer":              {ModelMarket{Ask: ask, Won: 10, At: []PricePoint{{500_000, 19}, {2_000_000, 6}}}, 2_000_000},
		"as good":             {ModelMarket{Ask: ask, Won: 10, At: []PricePoint{{500_000, 20}, {2_000_000, 5}}}, unit},
		"dearest of equals":   {ModelMarket{Ask: ask, Won: 1, At: []PricePoint{{500_000, 40}, {2_000_000, 10}, {4_000_000, 5}}}, 4_000_000},
		"won none so far":     {ModelMarket{Ask: ask, At: []PricePoint{{900_000, 1}}}, 900_000},
		"given away":          {ModelMarket{Won: 10, At: []PricePoint{{500_000, 21}}}, 0},
		"the largest numbers": {ModelMarket{Ask: ask, Won: SampleMax, At: []PricePoint{{PricePPMMax, SampleMax}}}, PricePPMMax},
	} {
		best, ok := c.m.Best()
		if ok != (c.want > 0) || ok && best.PPM != c.want {
			t.Errorf("%s: %+v %t, want %d", name, best, ok, c.want)
		}
	}
}

func TestPriceAt(t *testing.T) {
	for _, c := range []struct {
		price Price
		ppm   int64
		want  Price
	}{
		{Price{50, 5, 150}, unit, Price{50, 5, 150}},
		{Price{50, 5, 150}, 800_000, Price{40, 4, 120}},
		{Price{1, 2, 3}, 500_000, Price{1, 1, 2}}, // halves go up
		{Price{PriceMax, 1, 0}, PricePPMMax, Price{PriceMax, 100, 0}},
		{Price{PriceMax, PriceMax, PriceMax}, math.MaxInt64, Price{PriceMax, PriceMax, PriceMax}},
		{Price{10, 10, 10}, -1, Price{}},
	} {
		if got := c.price.At(c.ppm); got != c.want {
			t.Errorf("%+v at %d is %+v, want %+v", c.price, c.ppm, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := Price{Out: nanoton.Amount(rapid.Int64Range(0, int64(PriceMax)).Draw(t, "price"))}
		ppm := rapid.Int64Range(0, PricePPMMax).Draw(t, "ppm")
		got := p.At(ppm)
		want := min((float64(p.Out)*float64(ppm))/unit, float64(PriceMax))
		if got.Validate() != nil || math.Abs(float64(got.Out)-want) > 1+want*1e-12 {
			t.Fatalf("%d at %d is %d, want %f", p.Out, ppm, got.Out, want)
		}
	})
}

func FuzzMarket(f *testing.F) {
	m := someMarket()
	good, err := m.Marshal(1 << 20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"v":1,"seconds":1,"models":[{"model":"m","workers":1e3,"at":[{"ppm":1}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var m Market
		if json.Unmarshal(text, &m) != nil || m.Validate() != nil {
			return
		}
		for i := range m.Models {
			if best, ok := m.Models[i].Best(); ok && m.Models[i].Ask.At(best.PPM).Validate() != nil {
				t.Fatalf("proposes a price that none can ask: %+v", best)
			}
		}
		out, err := m.Marshal(1 << 20)
		var back Market
		if err != nil || json.Unmarshal(out, &back) != nil || back.Validate() != nil {
			t.Fatalf("does not come back: %s, %v", out, err)
		}
	})
}
