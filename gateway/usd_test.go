package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
)

// Prices in dollars are the median of what services say, with the ID of the rate; the nanoTON beside them stay as they were.
func TestUSD(t *testing.T) {
	cfg := &USDConfig{}
	for name, price := range map[string]string{"a": `"3.10"`, "b": "3.12", "c": "3.11"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("symbol") != "GRAMUSDT" {
				http.Error(w, "another symbol", http.StatusNotFound)
				return
			}
			fmt.Fprintf(w, `{"data":[{"last":%s}]}`, price)
		}))
		t.Cleanup(s.Close)
		cfg.Sources = append(cfg.Sources, USDSource{Name: name, URL: s.URL + "/?symbol={symbol}", Path: "data.0.last", Symbol: "GRAMUSDT"})
	}
	n := newNetwork(t, func(c *Config) { c.USD = cfg })
	var got struct {
		USD struct {
			ID   string `json:"rate_id"`
			Coin string `json:"coin"`
			Rate string `json:"usd_per_ton"`
		} `json:"usd"`
	}
	for deadline := time.Now().Add(waitMax); got.USD.ID == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no rate")
		}
		resp, err := n.client.Get(n.base + "/cocoon/v1/prices")
		if err != nil {
			t.Fatal(err)
		}
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	if got.USD.Coin != "GRAM" || got.USD.Rate != "3.110000" {
		t.Errorf("the rate: %+v", got.USD)
	}
	r, _ := n.server.money.rate()
	if p := inUSD(r, offer.Price{In: nanoton.PerTON, Out: nanoton.PerTON / 2}); *p != (usdPrice{"3.110000", "0.000000", "1.555000"}) {
		t.Errorf("a price: %+v", p)
	}
}
