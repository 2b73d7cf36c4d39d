package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/internal/strictjson"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
)

const (
	// marketPath is where the ops listener shows what gateways tell of demand.
	marketPath = "/market"
	// marketsMax bounds what the command reads there, bytes: the most of 64 gateways, and its JSON around.
	marketsMax = gatewaysMax * (2 * tunnel.MarketMax)
	// marketsVersion is the version of what stands there.
	marketsVersion = 1
)

// GatewayMarket is the newest that a gateway has told of demand.
type GatewayMarket struct {
	// Gateway is its address, as in worker.yaml.
	Gateway string `json:"gateway"`
	// At is when it came, ms since 1970.
	At     int64        `json:"at"`
	Market offer.Market `json:"market"`
}

// marketList is what stands at marketPath.
type marketList struct {
	V        int             `json:"v"`
	Gateways []GatewayMarket `json:"gateways"`
}

// markets are those of all gateways.
type markets struct {
	mu     sync.Mutex
	newest map[string]GatewayMarket // by address
}

// marketOf takes what one gateway tells.
func (w *Worker) marketOf(gateway string) func([]byte) error {
	return func(text []byte) error {
		m := GatewayMarket{Gateway: gateway, At: time.Now().UnixMilli()}
		if err := strictjson.Decode(text, &m.Market); err != nil {
			return fmt.Errorf("%w: not the JSON that was agreed on", offer.ErrMarket)
		}
		if err := m.Market.Validate(); err != nil {
			return err
		}
		w.markets.mu.Lock()
		defer w.markets.mu.Unlock()
		if w.markets.newest == nil {
			w.markets.newest = make(map[string]GatewayMarket)
		}
		w.markets.newest[gateway] = m
		return nil
	}
}

// list has them in the order of their addresses.
func (m *markets) list() []GatewayMarket {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]GatewayMarket, 0, len(m.newest))
	for _, one := range m.newest {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b GatewayMarket) int { return strings.Compare(a.Gateway, b.Gateway) })
	return all
}

// serveMarkets shows them to the operator.
func (w *Worker) serveMarkets(rw http.ResponseWriter, _ *http.Request) {
	text, err := json.Marshal(marketList{V: marketsVersion, Gateways: w.markets.list()})
	if err != nil {
		http.Error(rw, "not to be shown", http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_, _ = rw.Write(append(text, '\n')) // whoever asked may be gone
}

// ReadMarket asks the running worker what gateways tell it of demand, which takes its ops_listen.
func ReadMarket(ctx context.Context, c Config) ([]GatewayMarket, error) {
	if c.OpsListen == "" {
		return nil, errors.New("the worker can't be asked: set ops_listen in worker.yaml, such as 127.0.0.1:9091, and start it again")
	}
	text, err := askRunning(ctx, c.OpsListen, marketPath, marketsMax)
	if err != nil {
		return nil, err
	}
	var list marketList
	if err := strictjson.Decode(text, &list); err != nil || list.V != marketsVersion {
		return nil, errors.New("asking the running worker: what answers at ops_listen is none of this version")
	}
	for i := range list.Gateways {
		if !word(list.Gateways[i].Gateway) {
			return nil, errors.New("asking the running worker: a gateway's address is none")
		}
		if err := list.Gateways[i].Market.Validate(); err != nil {
			return nil, fmt.Errorf("asking the running worker: %w", err)
		}
	}
	return list.Gateways, nil
}

// askRunning reads a page of the running worker's ops listener, at most limit bytes.
func askRunning(ctx context.Context, address, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the running worker: %w", err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the running worker: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking the running worker: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("asking the running worker: what answers at ops_listen is none of this version (status %d)", resp.StatusCode)
	case int64(len(text)) > limit:
		return nil, errors.New("asking the running worker: its answer is too long")
	}
	return text, nil
}
