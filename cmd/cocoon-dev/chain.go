package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/durable"
	"cocoon/internal/nanoton"
	"cocoon/internal/strictjson"
)

const (
	// heartbeat is how often the local chain makes a block if nothing happens; what happens has one at once. Clients
	// take a chain whose last block is 30 s old for dead, and each block takes time at the next start.
	heartbeat = 10 * time.Second
	// chainConfigName is the network's global config, below the chain's folder.
	chainConfigName = "network.json"
	// faucetMax is what one call may ask for.
	faucetMax = 1_000_000 * nanoton.PerTON
	// memoMax bounds a comment, bytes: memos are shorter.
	memoMax = 120
	// chainBodyMax bounds a request, bytes.
	chainBodyMax = 4 << 10
	// chainTimeout is what a block may take.
	chainTimeout = 10 * time.Second
	// chainEnd is as far as the chain's clock may be set: its blocks have 32 bits for the time.
	chainEnd = 4_000_000_000
)

// errTooMuch marks an amount above faucetMax.
var errTooMuch = errors.New("too much: at most a million TON a call")

// chain is the local TON network, with play money.
type chain struct {
	network *devnet.Network
	config  string // path of its global config
}

// startChain continues the chain in a folder, or begins one there, and serves it to this machine.
func startChain(dir string, log *slog.Logger) (*chain, error) {
	n, err := devnet.New(devnet.Options{Dir: dir, BlockInterval: heartbeat, AutoMine: true, Log: log})
	if err != nil {
		return nil, fmt.Errorf("the local chain in %s: %w", dir, err)
	}
	c := &chain{network: n, config: filepath.Join(dir, chainConfigName)}
	if err := c.serve(); err != nil {
		n.Close()
		return nil, fmt.Errorf("the local chain: %w", err)
	}
	return c, nil
}

func (c *chain) serve() error {
	if err := c.network.Mine(); err != nil { // the last one may be from long ago
		return err
	}
	if err := c.network.Listen("127.0.0.1:0"); err != nil {
		return err
	}
	text, err := c.network.ConfigJSON()
	if err != nil {
		return err
	}
	if err := durable.Replace(c.config, text); err != nil {
		return err
	}
	c.network.Start()
	return nil
}

func (c *chain) close() { c.network.Close() }

// faucet is the chain's HTTP side: POST /dev/faucet, POST /dev/chain/skew, GET /dev/chain. It's for this machine alone.
func (c *chain) faucet() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /dev/faucet", c.pay)
	mux.HandleFunc("POST /dev/chain/skew", c.skew)
	mux.HandleFunc("GET /dev/chain", func(w http.ResponseWriter, _ *http.Request) { c.show(w) })
	pages := http.NewCrossOriginProtection()
	pages.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "cross_origin", "web pages of others may not call this")
	}))
	return byNumber(pages.Handler(mux))
}

// byNumber keeps out web pages that have given a name of their own to this address: they can't call it by its number.
func byNumber(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if host != "localhost" && net.ParseIP(strings.Trim(host, "[]")) == nil {
			refuse(w, http.StatusForbidden, "wrong_host", "call it by its address, or as localhost")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// gift is what the faucet is asked for.
type gift struct {
	To      string `json:"to"`
	Nanoton string `json:"nanoton"`
	Comment string `json:"comment"`
}

func (c *chain) pay(w http.ResponseWriter, r *http.Request) {
	var g gift
	if !readJSON(w, r, &g) {
		return
	}
	amount, err := parseGift(g.Nanoton)
	if err != nil {
		code := "bad_amount"
		if errors.Is(err, errTooMuch) {
			code = "too_much"
		}
		refuse(w, http.StatusBadRequest, code, `"nanoton" is `+err.Error())
		return
	}
	if len(g.Comment) > memoMax {
		refuse(w, http.StatusBadRequest, "long_comment", fmt.Sprintf(`"comment" has more than %d bytes`, memoMax))
		return
	}
	if _, err := devnet.ParseAddress(g.To); err != nil {
		refuse(w, http.StatusBadRequest, "bad_address", `"to" is not an address of a TON account`)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), chainTimeout)
	defer cancel()
	seqno, err := c.network.Pay(ctx, g.To, amount, g.Comment)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, "no_block", "the chain made no block: "+err.Error())
		return
	}
	answer(w, http.StatusOK, struct {
		gift
		Seqno uint32 `json:"seqno"`
	}{g, seqno})
}

// parseGift reads an amount: digits alone, for what it says.
func parseGift(text string) (nanoton.Amount, error) {
	if text == "" || text[0] == '0' || strings.Trim(text, "0123456789") != "" {
		return 0, errors.New(`to be a whole number above 0, in quotes: 1 TON is "1000000000"`)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || nanoton.Amount(n) > faucetMax {
		return 0, errTooMuch
	}
	return nanoton.Amount(n), nil
}

func (c *chain) skew(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Seconds *int64 `json:"seconds"`
	}
	if !readJSON(w, r, &ask) {
		return
	}
	if ask.Seconds == nil {
		refuse(w, http.StatusBadRequest, "bad_time", `"seconds" is missing`)
		return
	}
	now := c.network.Now().Unix()
	if s := *ask.Seconds; s > chainEnd-now || s < -now {
		refuse(w, http.StatusBadRequest, "bad_time", "the chain's clock does not go that far")
		return
	}
	c.network.SkewClock(time.Duration(*ask.Seconds) * time.Second)
	if err := c.network.Mine(); err != nil { // now blocks have that time, also after a restart
		refuse(w, http.StatusServiceUnavailable, "no_block", "the chain made no block: "+err.Error())
		return
	}
	c.show(w)
}

func (c *chain) show(w http.ResponseWriter) {
	answer(w, http.StatusOK, struct {
		Seqno  uint32    `json:"seqno"`
		Time   time.Time `json:"time"`  // of the newest block
		Clock  time.Time `json:"clock"` // what the next block's will be
		Config string    `json:"config"`
	}{c.network.Seqno(), c.network.BlockTime().UTC(), c.network.Now().UTC().Truncate(time.Second), c.config})
}

// readJSON decodes a request; false if it was refused.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "unsupported_media_type", "send JSON, with Content-Type: application/json")
		return false
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, chainBodyMax))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "request_too_large", fmt.Sprintf("at most %d bytes", chainBodyMax))
		return false
	}
	if err := strictjson.Decode(text, v); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", "the body: "+err.Error())
		return false
	}
	return true
}

// refuse answers with an error, as a code for programs and a sentence for people.
func refuse(w http.ResponseWriter, status int, code, message string) {
	type reason struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	answer(w, status, struct {
		Error reason `json:"error"`
	}{reason{code, message}})
}

func answer(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // whoever asked is gone
}
