package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cocoon/internal/tunnel"
	"cocoon/router/offer"
	"cocoon/worker/engine/enginetest"
)

func someMarket(model string) *offer.Market {
	return &offer.Market{V: offer.MarketVersion, Seconds: 3600, Models: []offer.ModelMarket{{
		Model: model, Workers: 2, Requests: 10, Ask: offer.Price{In: 5, Cached: 5, Out: 6}, Considered: 10, Won: 5,
		At: []offer.PricePoint{{PPM: 500_000, Won: 9}},
	}}}
}

// TestMarketThroughTunnel: what a gateway tells is what the operator reads, and nonsense is not.
func TestMarketThroughTunnel(t *testing.T) {
	r := runWorker(t, enginetest.New(), nil)
	peer, _ := r.gw.last()
	srv := httptest.NewServer(r.opsHandler())
	defer srv.Close()
	c := r.config
	if _, err := ReadMarket(t.Context(), c); err == nil || !strings.Contains(err.Error(), "set ops_listen") {
		t.Errorf("without ops_listen: %v", err)
	}
	c.OpsListen = strings.TrimPrefix(srv.URL, "http://")
	if list, err := ReadMarket(t.Context(), c); err != nil || len(list) != 0 {
		t.Errorf("before any: %+v, %v", list, err)
	}
	tell := func(m *offer.Market) error {
		text, err := m.Marshal(tunnel.MarketMax)
		if err != nil {
			t.Fatal(err)
		}
		return peer.Market(t.Context(), text)
	}
	for _, model := range []string{"first", "second"} {
		if err := tell(someMarket(model)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "not JSON": "{", "null": "null", "a list": "[]", "another version": `{"v":2,"seconds":1,"models":[]}`,
		"a field more": `{"v":1,"seconds":1,"models":[],"x":1}`, "two": `{"v":1,"seconds":1} {}`,
		"negative":   `{"v":1,"seconds":1,"models":[{"model":"m","requests":-1}]}`,
		"fraction":   `{"v":1,"seconds":1,"models":[{"model":"m","won":0.5}]}`,
		"overflow":   `{"v":1,"seconds":1,"models":[{"model":"m","considered":99999999999999999999}]}`,
		"no name":    `{"v":1,"seconds":1,"models":[{"model":"a b"}]}`,
		"many":       `{"v":1,"seconds":1,"models":[` + strings.Repeat("{},", offer.OffersMax) + `{}]}`,
		"deep":       strings.Repeat("[", tunnel.MarketMax),
		"of a price": `{"v":1,"seconds":1,"models":[{"model":"m","ask":{"in":-1,"cached":0,"out":0}}]}`,
	} {
		if err := peer.Market(t.Context(), []byte(text)); !errors.Is(err, tunnel.ErrNoMarket) {
			t.Errorf("%s: %v, want ErrNoMarket", name, err)
		}
	}
	if err := peer.Market(t.Context(), make([]byte, tunnel.MarketMax+1)); err == nil {
		t.Error("too long: taken")
	}
	list, err := ReadMarket(t.Context(), c)
	if err != nil || len(list) != 1 || list[0].Gateway != r.gw.address || list[0].At == 0 || len(list[0].Market.Models) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if got, want := list[0].Market.Models[0], someMarket("second").Models[0]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("it stands there as %+v, want %+v", got, want)
	}
	if status, _ := through(t, peer, chatBody("ok", true), ""); status != http.StatusOK {
		t.Errorf("a request after all that: %d", status)
	}
}

// TestReadMarketRefuses what answers at ops_listen and is no worker of this version.
func TestReadMarketRefuses(t *testing.T) {
	bad := someMarket("m")
	bad.Models[0].Won = 11
	spoilt, err := json.Marshal(marketList{V: marketsVersion, Gateways: []GatewayMarket{{Gateway: "g", Market: *bad}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"another version": `{"v":2,"gateways":[]}`, "HTML": "<html>", "a field more": `{"v":1,"x":1}`, "spoilt": string(spoilt),
		"too long": strings.Repeat(" ", marketsMax+1), "a name": `{"v":1,"gateways":[{"gateway":"\u001b[2J","at":1,"market":{"v":1,"seconds":1}}]}`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, text) }))
		c := configFor(t, "http://127.0.0.1:1")
		c.OpsListen = strings.TrimPrefix(srv.URL, "http://")
		if list, err := ReadMarket(t.Context(), c); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
		srv.Close()
		if _, err := ReadMarket(t.Context(), c); err == nil {
			t.Error("of one that is not there")
		}
	}
}

// FuzzMarketOf: what passes can be shown, and nothing else is kept.
func FuzzMarketOf(f *testing.F) {
	good, err := someMarket("m").Marshal(tunnel.MarketMax)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"v":1,"seconds":1,"models":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		w := new(Worker)
		err := w.marketOf("g")(text)
		list := w.markets.list()
		if (err == nil) != (len(list) == 1) {
			t.Fatalf("%v, and %d kept", err, len(list))
		}
		if err == nil && list[0].Market.Validate() != nil {
			t.Fatal("what is kept is not valid")
		}
	})
}
