package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/gateway/accounts"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/secret"
)

// desk is the account and admin API over a ledger, without a gateway.
type desk struct {
	t      *testing.T
	ledger *ledger.Ledger
	api    *adminAPI
	admin  http.Handler
	logs   lockedBuffer
}

func newDesk(t *testing.T) *desk {
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	book, err := accounts.Open(t.Context(), accounts.Config{Store: l, TestMoney: 5 * nanoton.PerTON})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, ledger: l}
	log := slog.New(slog.NewTextHandler(&d.logs, nil))
	d.api = &adminAPI{host: "gateway.internal", accountAPI: accountAPI{
		book: book, log: log, reports: make(chan struct{}, reportsMax),
		refuse: func(w http.ResponseWriter, e *openai.Error) { e.Write(w) },
		answer: func(w http.ResponseWriter, v any) {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(v); err != nil {
				t.Error(err)
			}
		},
	}}
	d.admin = http.StripPrefix("/admin/v1", d.api.routes())
	return d
}

// send asks the admin API.
func (d *desk) send(method, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	d.t.Helper()
	r := httptest.NewRequestWithContext(d.t.Context(), method, "http://127.0.0.1:9090/admin/v1"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	d.admin.ServeHTTP(w, r)
	return w
}

// call asks the admin API and wants a status; the answer is JSON.
func (d *desk) call(status int, method, path, body string) map[string]any {
	d.t.Helper()
	return d.json(d.send(method, path, body, nil), status)
}

func (d *desk) json(w *httptest.ResponseRecorder, status int) map[string]any {
	d.t.Helper()
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != status {
		d.t.Fatalf("status %d, want %d: %s (%v)", w.Code, status, w.Body, err)
	}
	if e, ok := v["error"].(map[string]any); ok == (status == http.StatusOK) || ok && len(e) != 4 {
		d.t.Fatalf("status %d with %s", status, w.Body)
	}
	return v
}

// spend posts what was used.
func (d *desk) spend(n int, u ledger.UsageLine) {
	d.t.Helper()
	u.Requests = 1
	if err := d.ledger.Post(d.t.Context(), []ledger.Transfer{{
		ID: ledger.ID{1, byte(n)}, Kind: "settle", At: time.Now(), Ref: "x", Usage: []ledger.UsageLine{u},
		Legs: []ledger.Leg{{Account: u.Customer, Amount: -u.Cost}, {Account: "fees", Amount: u.Cost}},
	}}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) get(handler func(http.ResponseWriter, *http.Request, *accounts.Key), path string, key *accounts.Key) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler(w, httptest.NewRequestWithContext(d.t.Context(), http.MethodGet, path, nil), key)
	return w
}

func TestAccountAnswer(t *testing.T) {
	d := newDesk(t)
	made := d.call(200, "POST", "/keys", `{"name":"app","budget_nanoton":1000000000,"reset":"daily","limits":{"requests_per_minute":9}}`)
	text, err := secret.ParseKey(fmt.Sprint(made["key"]))
	if err != nil {
		t.Fatal(err)
	}
	key := d.api.book.Key(text.Hash())
	today := time.Now().UTC().Format(time.DateOnly)
	d.spend(1, ledger.UsageLine{Day: today, Customer: "customer:default", Key: key.ID, Item: "m", Cost: 300})
	if err := key.Reserve(77); err != nil {
		t.Fatal(err)
	}
	v := d.json(d.get(d.api.show, "/cocoon/v1/account", key), 200)
	k := v["key"].(map[string]any)
	budget := k["budget"].(map[string]any)
	if v["account"] != "default" || v["balance_nanoton"] != 5e9-300 || v["held_nanoton"] != 0.0 || v["available_nanoton"] != 5e9-300 ||
		k["id"] != key.ID || k["name"] != "app" || budget["spent_nanoton"] != 300.0 || budget["reserved_nanoton"] != 77.0 ||
		budget["limit_nanoton"] != 1e9 || k["limits"].(map[string]any)["requests_per_minute"] != 9.0 {
		t.Errorf("account: %v", v)
	}
	// The desk is ahead of the ledger; where others spend too it knows its own part only.
	d.api.desk = func(a ledger.Account) (balance, held nanoton.Amount, ok bool) {
		return 1000, 400, a == "customer:default"
	}
	v = d.json(d.get(d.api.show, "/cocoon/v1/account", key), 200)
	if v["balance_nanoton"] != 1000.0 || v["held_nanoton"] != 400.0 || v["available_nanoton"] != 600.0 {
		t.Errorf("account with a desk: %v", v)
	}
	d.api.shared = true
	v = d.json(d.get(d.api.show, "/cocoon/v1/account", key), 200)
	if v["balance_nanoton"] != 5e9-300 || v["held_nanoton"] != 400.0 {
		t.Errorf("account of several gateways: %v", v)
	}
}

func TestUsageAnswer(t *testing.T) {
	d := newDesk(t)
	_, key, err := d.api.book.CreateKey(t.Context(), accounts.DefaultAccount, accounts.Settings{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.api.book.CreateAccount(t.Context(), "other", accounts.Limits{}); err != nil {
		t.Fatal(err)
	}
	day := func(ago int) string { return time.Now().UTC().AddDate(0, 0, -ago).Format(time.DateOnly) }
	for i, u := range []ledger.UsageLine{
		{Day: day(0), Customer: "customer:default", Key: key.ID, Item: "m", User: "bob", Counts: [4]int64{10, 3, 5, 1}, Cost: 7},
		{Day: day(1), Customer: "customer:default", Key: "gone", Item: "n", Cost: 2},
		{Day: day(40), Customer: "customer:default", Key: key.ID, Item: "m", Cost: 100},
		{Day: day(0), Customer: "customer:other", Key: "k", Item: "m", Cost: 1000},
	} {
		d.spend(i, u)
	}
	for query, want := range map[string]string{
		"":                                      `[2,7]`,
		"?by=model":                             `[7,2]`,
		"?by=model,user&key=" + key.ID:          `[7]`,
		"?from=2020-01-01":                      `[100,2,7]`,
		"?from=2020-01-01&to=" + day(1):         `[100,2]`,
		"?from=2020-01-01&by=key&format=json":   `[107,2]`,
		"?key=k":                                `[]`,
		"?from=" + day(0) + "&to=" + day(0):     `[7]`,
		"?by=day,model,key,user&from=" + day(1): `[2,7]`,
	} {
		v := d.json(d.get(d.api.usage, "/cocoon/v1/usage"+query, key), 200)
		costs := []any{}
		sum := 0.0
		for _, row := range v["data"].([]any) {
			cost := row.(map[string]any)["cost_nanoton"]
			costs = append(costs, cost)
			sum += cost.(float64)
		}
		got, _ := json.Marshal(costs)
		if string(got) != want || v["total"].(map[string]any)["cost_nanoton"] != sum {
			// By key the order is that of random IDs.
			if !strings.Contains(query, "by=key") || string(got) != `[2,107]` {
				t.Errorf("%q: %s, want %s: %v", query, got, want, v)
			}
		}
	}
	w := d.get(d.api.usage, "/cocoon/v1/usage?format=csv&by=user,model", key)
	if want := "model,user,requests,input_tokens,cached_tokens,output_tokens,reasoning_tokens,cost_nanoton,cost_ton\n" +
		"m,bob,1,10,3,5,1,7,0.000000007\nn,,1,0,0,0,0,2,0.000000002\n"; w.Body.String() != want || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/csv") {
		t.Errorf("CSV:\n%s%v", w.Body, w.Header())
	}
	for _, query := range []string{
		"?account=other", "?by=hour", "?from=now", "?format=xml", "?colour=red", "?by=day&by=model", "?by=", "?from=2026-02-30",
	} {
		d.json(d.get(d.api.usage, "/cocoon/v1/usage"+query, key), 400)
	}
	for range reportsMax {
		d.api.reports <- struct{}{}
	}
	if w := d.get(d.api.usage, "/cocoon/v1/usage", key); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one report too many: %d", w.Code)
	}
	for range reportsMax {
		<-d.api.reports
	}
	if err := d.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	d.json(d.get(d.api.usage, "/cocoon/v1/usage", key), 503)
	if !strings.Contains(d.logs.String(), "asking the ledger failed") {
		t.Error("a ledger that fails is not logged")
	}
}

func TestAdminAccounts(t *testing.T) {
	d := newDesk(t)
	v := d.call(200, "POST", "/accounts", `{"name":"acme","limits":{"tokens_per_minute":1000}}`)
	if v["name"] != "acme" || v["balance_nanoton"] != 5e9 || v["suspended"] != nil {
		t.Errorf("new account: %v", v)
	}
	d.call(409, "POST", "/accounts", `{"name":"acme"}`)
	d.call(400, "POST", "/accounts", `{"name":"a b"}`)
	d.call(400, "POST", "/accounts", `{"name":"x","colour":1}`)
	d.call(400, "POST", "/accounts", `{"name":"x"} {}`)
	d.call(404, "GET", "/accounts/nobody", "")
	d.call(404, "POST", "/accounts/nobody/suspend", `{"reason":"x"}`)
	v = d.call(200, "PATCH", "/accounts/acme", `{"limits":{"concurrent":3}}`)
	if limits := v["limits"].(map[string]any); limits["concurrent"] != 3.0 || limits["tokens_per_minute"] != nil {
		t.Errorf("changed limits: %v", v)
	}
	v = d.call(200, "POST", "/accounts/acme/suspend", `{"reason":"unpaid"}`)
	if v["reason"] != "unpaid" || v["suspended"] == nil {
		t.Errorf("suspended: %v", v)
	}
	v = d.call(200, "POST", "/accounts/acme/resume", `{}`)
	if v["reason"] != nil || v["suspended"] != nil {
		t.Errorf("resumed: %v", v)
	}
	for range 2 {
		v = d.call(200, "POST", "/accounts/acme/grant", `{"amount_nanoton":1500000000,"id":"a"}`)
		if v["balance_nanoton"] != 65e8 {
			t.Errorf("granted: %v", v)
		}
	}
	d.call(409, "POST", "/accounts/acme/grant", `{"amount_nanoton":1,"id":"a"}`)
	d.call(400, "POST", "/accounts/acme/grant", `{"amount_nanoton":1.5,"id":"b"}`)
	d.call(400, "POST", "/accounts/acme/grant", `{"amount_nanoton":-1,"id":"b"}`)
	for _, name := range []string{"b", "c"} {
		d.call(200, "POST", "/accounts", `{"name":"`+name+`"}`)
	}
	v = d.call(200, "GET", "/accounts?limit=2", "")
	if list := v["data"].([]any); len(list) != 2 || v["has_more"] != true || list[0].(map[string]any)["balance_nanoton"] != 65e8 {
		t.Errorf("first page: %v", v)
	}
	v = d.call(200, "GET", "/accounts?after=b", "")
	if list := v["data"].([]any); len(list) != 1 || v["has_more"] != false || list[0].(map[string]any)["name"] != "c" {
		t.Errorf("second page: %v", v)
	}
	d.call(400, "GET", "/accounts?after=x", "")
	d.call(400, "GET", "/accounts?limit=0", "")
	d.call(400, "GET", "/accounts?limit=100000", "")
}

func TestAdminKeys(t *testing.T) {
	d := newDesk(t)
	d.call(404, "POST", "/keys", `{"name":"x","account":"nobody"}`)
	d.call(400, "POST", "/keys", `{"name":""}`)
	d.call(400, "POST", "/keys", `{"name":"x","scopes":["root"]}`)
	d.call(400, "POST", "/keys", `{"name":"x","id":"000000000000"}`)
	v := d.call(200, "POST", "/keys", `{"name":"x","models":["a*"],"expires":"2099-01-01T00:00:00Z"}`)
	id := fmt.Sprint(v["id"])
	first, err := secret.ParseKey(fmt.Sprint(v["key"]))
	if err != nil || d.api.book.Key(first.Hash()) == nil || v["account"] != "default" {
		t.Fatalf("new key: %v %v", v, err)
	}
	v = d.call(200, "PATCH", "/keys/"+id, `{"budget_nanoton":5,"limits":{"concurrent":2}}`)
	if v["name"] != "x" || fmt.Sprint(v["models"]) != "[a*]" || v["budget"].(map[string]any)["limit_nanoton"] != 5.0 || v["expires"] == nil {
		t.Errorf("changed key: %v", v)
	}
	v = d.call(200, "PATCH", "/keys/"+id, `{"models":[],"budget_nanoton":0}`)
	if fmt.Sprint(v["models"]) != "[]" || v["budget"] != nil || v["limits"].(map[string]any)["concurrent"] != 2.0 {
		t.Errorf("changed key: %v", v)
	}
	d.call(400, "PATCH", "/keys/"+id, `{"reset":"hourly"}`)
	d.call(400, "PATCH", "/keys/"+id, `{"revoked":"2020-01-01T00:00:00Z"}`)
	d.call(404, "PATCH", "/keys/none", `{}`)
	v = d.call(200, "POST", "/keys/"+id+"/rotate", `{"grace_seconds":60}`)
	second, err := secret.ParseKey(fmt.Sprint(v["key"]))
	if err != nil || v["id"] != id || d.api.book.Key(first.Hash()) != d.api.book.Key(second.Hash()) || len(v["older_texts_until"].([]any)) != 1 {
		t.Fatalf("rotated key: %v %v", v, err)
	}
	d.call(400, "POST", "/keys/"+id+"/rotate", `{"grace_seconds":-1}`)
	d.call(400, "POST", "/keys/"+id+"/rotate", `{"grace_seconds":9223372036854775807}`)
	list := d.call(200, "GET", "/keys?account=default", "")["data"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["id"] != id {
		t.Errorf("keys: %v", list)
	}
	if v := d.call(200, "GET", "/keys?account=nobody", ""); len(v["data"].([]any)) != 0 {
		t.Errorf("keys of nobody: %v", v)
	}
	if v := d.call(200, "POST", "/keys/"+id+"/revoke", `{}`); v["revoked"] == nil || d.api.book.Key(second.Hash()) != nil {
		t.Errorf("revoked key: %v", v)
	}
	everything := d.send("GET", "/keys", "", nil).Body.String() + d.send("GET", "/keys/"+id, "", nil).Body.String() + d.logs.String()
	for _, k := range []secret.Key{first, second} {
		if hash := k.Hash(); strings.Contains(everything, k.Reveal()) || strings.Contains(everything, fmt.Sprintf("%x", hash)) {
			t.Error("a key or its hash is shown")
		}
	}
	d.spend(1, ledger.UsageLine{Day: "2026-11-26", Customer: "customer:default", Key: id, Cost: 5})
	rows := d.call(200, "GET", "/usage?by=account,key", "")["data"].([]any)
	if len(rows) != 1 || rows[0].(map[string]any)["account"] != "default" || rows[0].(map[string]any)["key"] != id {
		t.Errorf("usage: %v", rows)
	}
	d.call(400, "GET", "/usage?by=x", "")
}

func TestAdminKeyProvider(t *testing.T) {
	d := newDesk(t)
	const price, sealed = `{"sort":"price"}`, `{"attestation":"sealed","max_price":{"prompt":5}}`
	id := fmt.Sprint(d.call(200, "POST", "/keys", `{"name":"app","provider": { "sort" : "price" } }`)["id"])
	shows := func(v map[string]any, want string) {
		t.Helper()
		if text, err := json.Marshal(v["provider"]); err != nil || string(text) != want {
			t.Errorf("provider is %s, want %s", text, want)
		}
	}
	shows(d.call(200, "GET", "/keys/"+id, ""), price)
	shows(d.call(200, "PATCH", "/keys/"+id, `{"name":"new"}`), price)
	shows(d.call(200, "PATCH", "/keys/"+id, `{"provider":`+sealed+`}`), sealed)
	for _, tc := range []struct{ body, param string }{
		{`{"provider":{"sort":"cost"}}`, "provider.sort"},
		{`{"provider":{"max_price":{"prompt":0.5}}}`, "provider.max_price.prompt"},
		{`{"provider":{"models":[]}}`, "provider.models"},
		{`{"provider":"price"}`, "provider"},
	} {
		for _, where := range []struct{ method, path string }{{"PATCH", "/keys/" + id}, {"POST", "/keys"}} {
			v := d.call(400, where.method, where.path, `{"name":"x",`+tc.body[1:])
			if e := v["error"].(map[string]any); e["param"] != tc.param {
				t.Errorf("%s: %v", tc.body, e)
			}
		}
	}
	v := d.call(200, "GET", "/keys/"+id, "")
	if shows(v, sealed); v["name"] != "new" {
		t.Error("a refused change was made in part")
	}
	key, err := d.api.book.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	shows(d.json(d.get(d.api.show, "/cocoon/v1/account", key), 200)["key"].(map[string]any), sealed)
	shows(d.call(200, "PATCH", "/keys/"+id, `{"provider":null}`), "null")
	d.call(404, "PATCH", "/keys/nosuchkey", `{"provider":{}}`)
}

// TestAdminKeepsWebPagesOut: no page that the operator's browser shows may change anything.
func TestAdminKeepsWebPagesOut(t *testing.T) {
	d := newDesk(t)
	body := `{"name":"evil"}`
	for name, tc := range map[string]struct {
		status int
		change func(r *http.Request)
	}{
		"a form":            {415, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }},
		"no type":           {415, func(r *http.Request) { r.Header.Del("Content-Type") }},
		"another site":      {403, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }},
		"another origin":    {403, func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }},
		"a name of its own": {403, func(r *http.Request) { r.Host = "evil.example:9090" }},
		"a name like ours":  {403, func(r *http.Request) { r.Host = "localhost.evil.example" }},
		"no host":           {403, func(r *http.Request) { r.Host = "" }},
		"large":             {413, func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(strings.Repeat(" ", askBodyMax+1))) }},
	} {
		w := d.send("POST", "/accounts", body, tc.change)
		if w.Code != tc.status || !strings.HasPrefix(w.Body.String(), `{"error":`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if len(d.api.book.Accounts()) != 0 {
		t.Fatal("an account was made")
	}
	for i, host := range []string{"localhost:9090", "[::1]:9090", "10.0.0.1", "gateway.internal:9090", "::1"} {
		w := d.send("POST", "/accounts", fmt.Sprintf(`{"name":"a%d"}`, i), func(r *http.Request) { r.Host = host })
		if w.Code != 200 {
			t.Errorf("%s: %d %s", host, w.Code, w.Body)
		}
	}
	d.call(404, "GET", "/nothing", "")
	d.call(405, "DELETE", "/accounts", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if w := d.send("POST", "/accounts", body, func(r *http.Request) { *r = *r.WithContext(ctx) }); w.Code != 503 {
		t.Errorf("a ledger that does not answer: %d", w.Code)
	}
}
