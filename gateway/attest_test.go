package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/attest/simtee"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
	"cocoon/internal/durable"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
)

// answerFunc is a worker's side of attestation.
type answerFunc func(ctx context.Context, export tunnel.Exporter, challenge []byte) ([]byte, error)

// candidate is a worker that wants in.
type candidate struct {
	id   tunnel.ID
	logs *lockedBuffer
	stop func()
}

// dialIn runs a worker with a way to attest and one model. It waits for nothing.
func (n *network) dialIn(identity *tunnel.Identity, answer answerFunc) *candidate {
	n.t.Helper()
	c := &candidate{id: identity.ID(), logs: &lockedBuffer{}}
	report, err := json.Marshal(offer.Sheet{V: offer.Version, Version: 1, Name: "candidate", Offers: []offer.Offer{{
		Model: "m", Engine: "script", ContextTokens: 4096, Features: []string{offer.FeatureChat}, Slots: 1, Capacity: 1,
	}}})
	if err != nil {
		n.t.Fatal(err)
	}
	pin := n.server.ID()
	d := tunnel.NewDialer(tunnel.DialerConfig{
		Identity: identity, Address: n.server.WorkerAddr().String(), Pin: &pin, Handler: http.NotFoundHandler(),
		Capacity: func() int { return 1 }, Attest: answer,
		Log: slog.New(slog.NewTextHandler(c.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Report: func(ctx context.Context, after uint64) (uint64, []byte) {
			if after >= 1 {
				<-ctx.Done()
				return after, nil
			}
			return 1, report
		},
	})
	c.stop = n.run(d.Run)
	return c
}

func newIdentity(t *testing.T) *tunnel.Identity {
	t.Helper()
	identity, err := tunnel.LoadIdentity(filepath.Join(t.TempDir(), "identity.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// keysetOf is what an honest worker says of itself, that serves the models, or m.
func keysetOf(id tunnel.ID, models ...string) attest.Keyset {
	now := time.Now().UTC().Truncate(time.Second)
	k := attest.Keyset{
		V: attest.Version, Role: attest.Worker, ID: attest.Digest(id), TLS: attest.Digest(id), Epoch: 1,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		HPKE: &attest.HPKEKey{KEM: 1, Public: []byte("key")}, Receipt: make([]byte, 32),
	}
	if len(models) == 0 {
		models = []string{"m"}
	}
	for _, m := range models {
		k.Models = append(k.Models, attest.Model{Name: m, Engine: "script"})
	}
	return k
}

// answering attests a machine with a keyset.
func answering(t *testing.T, m attest.Attester, k attest.Keyset) answerFunc {
	t.Helper()
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	r := &channel.Responder{Attester: m, Keyset: func() []byte { return text }}
	return func(ctx context.Context, export tunnel.Exporter, challenge []byte) ([]byte, error) {
		return r.Answer(ctx, channel.Exporter(export), challenge)
	}
}

// hooked is a machine with one thing broken.
func hooked(h simtee.Hooks) simtee.Config { return simtee.Config{Hooks: h} }

// brokenMachines are machines that must not get in, by what is wrong, with the check that says so.
func brokenMachines() map[string]struct {
	config simtee.Config
	check  string
} {
	const debug, migrate, smt, always = 1 << 19, 1 << 18, 1 << 16, 1 << 17
	report := func(f func(*simsnp.ReportConfig)) simtee.Config { return hooked(simtee.Hooks{Report: f}) }
	quote := func(f func(*simtdx.Quote)) simtee.Config {
		return simtee.Config{TEE: attest.TDX, Hooks: simtee.Hooks{Quote: f}}
	}
	collateral := func(f func(*simtdx.Collateral)) simtee.Config {
		return simtee.Config{TEE: attest.TDX, Hooks: simtee.Hooks{Collateral: f}}
	}
	return map[string]struct {
		config simtee.Config
		check  string
	}{
		"debugging on":      {report(func(r *simsnp.ReportConfig) { r.Policy = always | smt | debug }), "cpu.debug"},
		"may be migrated":   {report(func(r *simsnp.ReportConfig) { r.Policy = always | smt | migrate }), "cpu.migration"},
		"VMPL 1":            {report(func(r *simsnp.ReportConfig) { r.VMPL = 1 }), "cpu.vmpl"},
		"old firmware":      {report(func(r *simsnp.ReportConfig) { r.TCB.SNP-- }), "cpu.tcb.current"},
		"other software":    {report(func(r *simsnp.ReportConfig) { r.Measurement[0]++ }), "cpu.measurement"},
		"other report data": {report(func(r *simsnp.ReportConfig) { r.ReportData[0]++ }), "cpu.report_data"},
		"gateway's release": {simtee.Config{Role: attest.Gateway}, "cpu.measurement"},
		"revoked issuer": {hooked(simtee.Hooks{CRL: func(c *simsnp.CRLConfig) {
			c.Revoked = append(c.Revoked, big.NewInt(2))
		}}), "cpu.evidence: got revocation"},
		"stale list": {hooked(simtee.Hooks{CRL: func(c *simsnp.CRLConfig) {
			c.ThisUpdate, c.NextUpdate = time.Now().Add(-48*time.Hour), time.Now().Add(-time.Second)
		}}), "cpu.evidence: got revocation list"},
		"TD under debug":  {quote(func(q *simtdx.Quote) { q.TD.Attributes |= tdx.AttrDebug }), "cpu.debug"},
		"TD migratable":   {quote(func(q *simtdx.Quote) { q.TD.Attributes |= tdx.AttrMigratable }), "cpu.migration"},
		"TD other RTMR":   {quote(func(q *simtdx.Quote) { q.TD.RTMR[2][0]++ }), "cpu.measurement"},
		"TDX out of date": {collateral(func(c *simtdx.Collateral) { c.Platform = tdx.StatusOutOfDate }), "cpu.tcb_status"},
		"TDX revoked":     {collateral(func(c *simtdx.Collateral) { c.Platform = tdx.StatusRevoked }), "cpu.evidence: got TCB status"},
		"no GPU":          {simtee.Config{GPUs: -1}, "gpu."},
		"nine GPUs":       {simtee.Config{GPUs: 9}, "gpu.count"},
		"GPU debugged":    {hooked(simtee.Hooks{Device: func(_ int, d *simnvgpu.Device) { d.Measurements[3][0]++ }}), "gpu.evidence: got device 0: measurements"},
		"old driver":      {hooked(simtee.Hooks{GPU: func(_ int, c *simnvgpu.DeviceConfig) { c.Driver = "535.10.01" }}), "gpu.0.driver"},
		"no collateral":   {hooked(simtee.Hooks{Items: func([]attest.Item) []attest.Item { return nil }}), "cpu.evidence"},
	}
}

// TestBrokenMachines lets workers dial in with machines that something is wrong with. None gets into the table; the gateway's
// log and the worker's say which check refused it, with what it got and wanted.
func TestBrokenMachines(t *testing.T) {
	n := newNetwork(t, nil)
	for name, broken := range brokenMachines() {
		t.Run(name, func(t *testing.T) {
			identity := newIdentity(t)
			n.refuses(t, identity, answering(t, machine(t, broken.config), keysetOf(identity.ID())), broken.check)
		})
	}
}

// refuses dials in and waits until both sides have logged the refusal by a check.
func (n *network) refuses(t *testing.T, identity *tunnel.Identity, answer answerFunc, check string) {
	t.Helper()
	c := n.dialIn(identity, answer)
	defer c.stop()
	for who, says := range map[string]func() string{"the gateway": n.logs.String, "the worker": c.logs.String} {
		n.until(who+" says "+check, func() bool {
			return slices.ContainsFunc(strings.Split(says(), "\n"), func(line string) bool {
				return strings.Contains(line, check) && strings.Contains(line, "got") && strings.Contains(line, "want") &&
					(who == "the worker" || strings.Contains(line, c.id.String()))
			})
		})
	}
	if workers, _ := n.server.table.Workers(); workers != 0 {
		t.Errorf("%d workers are in the table", workers)
	}
	if strings.Contains(n.logs.String(), "worker admitted") {
		t.Error("a worker was admitted")
	}
}

// TestLies lets workers dial in whose machines are sound, but that lie about them.
func TestLies(t *testing.T) {
	n := newNetwork(t, nil)
	sound := machine(t, simtee.Config{})
	stranger, err := simtee.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := stranger.NewMachine(simtee.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]struct {
		answer func(id tunnel.ID, honest answerFunc) answerFunc
		check  string
	}{
		"keyset of another worker": {func(tunnel.ID, answerFunc) answerFunc {
			return answering(t, sound, keysetOf(tunnel.ID{1}))
		}, "keyset.id"},
		"gateway's role": {func(id tunnel.ID, _ answerFunc) answerFunc {
			k := keysetOf(id)
			k.Role = attest.Gateway
			return answering(t, sound, k)
		}, "keyset.role"},
		"keyset that ended": {func(id tunnel.ID, _ answerFunc) answerFunc {
			k := keysetOf(id)
			k.NotAfter = time.Now().Add(-time.Second)
			return answering(t, sound, k)
		}, "keyset.window"},
		"other TLS key": {func(id tunnel.ID, _ answerFunc) answerFunc {
			k := keysetOf(id)
			k.TLS[0]++
			return answering(t, sound, k)
		}, "keyset.tls"},
		"relayed from another connection": {func(_ tunnel.ID, honest answerFunc) answerFunc {
			return func(ctx context.Context, _ tunnel.Exporter, challenge []byte) ([]byte, error) {
				return honest(ctx, func(string, []byte, int) ([]byte, error) { return bytes.Repeat([]byte{1}, 32), nil }, challenge)
			}
		}, "cpu.report_data"},
		"unbound": {func(_ tunnel.ID, honest answerFunc) answerFunc {
			return func(ctx context.Context, _ tunnel.Exporter, challenge []byte) ([]byte, error) {
				return honest(ctx, nil, []byte(strings.Replace(string(challenge), "true", "false", 1)))
			}
		}, "cpu.report_data"},
		"replayed": {func(_ tunnel.ID, honest answerFunc) answerFunc {
			return func(ctx context.Context, export tunnel.Exporter, _ []byte) ([]byte, error) {
				return honest(ctx, export, channel.Request{V: attest.Version, Nonce: attest.Digest{7}, Bind: true}.Marshal())
			}
		}, "evidence.nonce"},
		"a vendor of his own": {func(id tunnel.ID, _ answerFunc) answerFunc {
			return answering(t, other, keysetOf(id))
		}, "cpu.evidence"},
		"another machine's GPU": {func(id tunnel.ID, _ answerFunc) answerFunc {
			return answering(t, graft{machine(t, simtee.Config{}), machine(t, simtee.Config{})}, keysetOf(id))
		}, "gpu.evidence: got device 0: nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			identity := newIdentity(t)
			honest := answering(t, sound, keysetOf(identity.ID()))
			n.refuses(t, identity, lie.answer(identity.ID(), honest), lie.check)
		})
	}
}

// graft has the CPU of one machine, and a GPU elsewhere that was asked with a nonce of its own.
type graft struct{ cpu, gpu attest.Attester }

func (g graft) TEE() attest.TEE { return g.cpu.TEE() }

func (g graft) Report(ctx context.Context, data [64]byte) ([]byte, []attest.Item, error) {
	return g.cpu.Report(ctx, data)
}

func (g graft) Devices(ctx context.Context, _ attest.Digest) ([]attest.Device, []attest.Item, error) {
	return g.gpu.Devices(ctx, attest.NewNonce())
}

// TestHostileEvidence lets workers answer with what is no evidence.
func TestHostileEvidence(t *testing.T) {
	n := newNetwork(t, nil)
	for name, answer := range map[string]answerFunc{
		"none": nil,
		"fails": func(context.Context, tunnel.Exporter, []byte) ([]byte, error) {
			return nil, errors.New("the chip is on fire")
		},
		"garbage": func(context.Context, tunnel.Exporter, []byte) ([]byte, error) { return []byte("{]"), nil },
		"empty":   func(context.Context, tunnel.Exporter, []byte) ([]byte, error) { return []byte("{}"), nil },
		"gigantic": func(context.Context, tunnel.Exporter, []byte) ([]byte, error) {
			return make([]byte, attest.EvidenceMax+1), nil
		},
		"truncated": func(ctx context.Context, export tunnel.Exporter, challenge []byte) ([]byte, error) {
			text, err := answering(t, machine(t, simtee.Config{}), keysetOf(tunnel.ID{1}))(ctx, export, challenge)
			return text[:len(text)/2], err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := n.dialIn(newIdentity(t), answer)
			defer c.stop()
			n.until("the gateway refuses it", func() bool {
				return strings.Contains(n.logs.String(), "worker refused\" worker="+c.id.String())
			})
			n.until("the worker hears why", func() bool { return strings.Contains(c.logs.String(), "gateway not connected") })
			if workers, _ := n.server.table.Workers(); workers != 0 {
				t.Errorf("%d workers are in the table", workers)
			}
		})
	}
}

// TestPolicyReload denies a worker that serves: it gets no more work from then on, and its session ends.
func TestPolicyReload(t *testing.T) {
	var path string
	n := newNetwork(t, func(c *Config) { path = c.Policy })
	id, _ := n.worker("one", 2, nil, "m")
	n.until("the worker is offered", func() bool { return len(n.server.table.Models()) == 1 })
	policy, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := durable.Replace(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write(string(policy) + "\nnonsense: true\n")
	n.until("a policy with a typo is refused", func() bool { return strings.Contains(n.logs.String(), "nonsense") })
	if len(n.server.table.Models()) != 1 {
		t.Error("a policy that can't be read changed something")
	}
	write(string(policy) + "\nworkers: {deny: [" + id.String() + "]}\n")
	n.until("the worker is out", func() bool { return len(n.server.table.Models()) == 0 })
	n.until("the log says why", func() bool { return strings.Contains(n.logs.String(), "workers.deny") })
	write(string(policy))
	n.until("it is back when allowed again", func() bool { return len(n.server.table.Models()) == 1 })
}

// TestEmptyPolicy admits nobody.
func TestEmptyPolicy(t *testing.T) {
	n := newNetwork(t, func(c *Config) {
		if err := os.WriteFile(c.Policy, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	identity := newIdentity(t)
	n.refuses(t, identity, answering(t, machine(t, simtee.Config{}), keysetOf(identity.ID())), "policy.window")
}

// TestRenewal has a worker attest again before its verdict ends, each time anew.
func TestRenewal(t *testing.T) {
	n := newNetwork(t, func(c *Config) {
		text, err := os.ReadFile(c.Policy)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.Policy, append(text, "session: 2s\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	identity := newIdentity(t)
	var times atomic.Int32
	honest := answering(t, machine(t, simtee.Config{}), keysetOf(identity.ID()))
	n.dialIn(identity, func(ctx context.Context, export tunnel.Exporter, challenge []byte) ([]byte, error) {
		if times.Add(1) > 2 {
			return nil, errors.New("no more")
		}
		return honest(ctx, export, challenge)
	})
	n.until("the worker is offered", func() bool { return len(n.server.table.Models()) == 1 })
	n.until("it is out when it can't renew", func() bool { return len(n.server.table.Models()) == 0 && times.Load() > 2 })
}

// relayedEvidence appraises what the gateway relays, as a client would.
func relayedEvidence(t *testing.T, r *channel.Relayed, nonce attest.Digest, role attest.Role) *attest.Result {
	t.Helper()
	e, err := attest.ParseEvidence(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	root, err := r.Proof.Root(nonce)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := attest.ParsePolicy(simulated().PolicyYAML(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	var known attest.Collateral
	if err := known.Add(e.Endorsements); err != nil {
		t.Fatal(err)
	}
	return policy.Appraise(e, known, attest.Setting{Role: role, Nonce: root, Now: time.Now()})
}

// bodyOf is text, where that name is taken.
func bodyOf(t *testing.T, resp *http.Response) string { return text(t, resp) }

func (n *network) get(path string) (int, string) {
	n.t.Helper()
	resp, err := n.client.Get(n.base + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestAnyoneCanRepeatTheAppraisal gets evidence of workers and gateway over nonces of its own.
func TestAnyoneCanRepeatTheAppraisal(t *testing.T) {
	n := newNetwork(t, func(c *Config) { c.Attester = machine(t, simtee.Config{Role: attest.Gateway}) })
	id, _ := n.worker("one", 2, nil, "m")
	n.worker("two", 2, nil, "other")
	n.until("both are offered", func() bool { return len(n.server.table.Models()) == 2 })
	nonce := attest.NewNonce()

	status, text := n.get("/cocoon/v1/workers?model=m&nonce=" + nonce.String())
	var list channel.Listing
	if err := json.Unmarshal([]byte(text), &list); err != nil || status != http.StatusOK || len(list.Workers) != 1 {
		t.Fatalf("%d %v %s", status, err, text)
	}
	w := list.Workers[0]
	if w.ID != attest.Digest(id) || w.Name != "one" || w.Verdict != attest.Simulated || w.Relayed == nil || w.Models[0] != "m" {
		t.Fatalf("listed %+v", w)
	}
	if r := relayedEvidence(t, w.Relayed, nonce, attest.Worker); r.Verdict != attest.Simulated || r.Claims.Keyset.ID != w.ID {
		t.Errorf("the worker's evidence: %s %+v", r.Verdict, r.Failures())
	}
	if _, text := n.get("/cocoon/v1/workers"); strings.Contains(text, "evidence") || !strings.Contains(text, "two") {
		t.Errorf("without a nonce: %s", text)
	}

	status, text = n.get("/cocoon/v1/attestation?nonce=" + nonce.String())
	var own channel.Attestation
	if err := json.Unmarshal([]byte(text), &own); err != nil || status != http.StatusOK {
		t.Fatalf("%d %v %s", status, err, text)
	}
	if r := relayedEvidence(t, &own.Relayed, nonce, attest.Gateway); r.Verdict != attest.Simulated {
		t.Errorf("the gateway's evidence: %s %+v", r.Verdict, r.Failures())
	}
	ops := "http://" + n.server.OpsAddr().String() + "/metrics"
	if resp, err := n.client.Get(ops); err != nil {
		t.Error(err)
	} else if all := bodyOf(t, resp); !strings.Contains(all, `cocoon_gateway_workers_attested{verdict="simulated"} 2`) ||
		!strings.Contains(all, "cocoon_gateway_policy_ends_timestamp_seconds 1.") ||
		!strings.Contains(all, `cocoon_gateway_appraisals_total{verdict="simulated"}`) {
		t.Errorf("metrics: %s", all)
	}
	if r := relayedEvidence(t, &own.Relayed, nonce, attest.Worker); r.Verdict != attest.Rejected {
		t.Error("a gateway passes for a worker")
	}
	for _, bad := range []string{"", "?nonce=", "?nonce=zz", "?nonce=" + strings.ToUpper(nonce.String())} {
		if status, text := n.get("/cocoon/v1/attestation" + bad); status != http.StatusBadRequest && !strings.HasPrefix(nonce.String(), "0") {
			t.Errorf("%q: %d %s", bad, status, text)
		}
	}
}

// TestNoTEE says so plainly.
func TestNoTEE(t *testing.T) {
	n := newNetwork(t, nil)
	status, text := n.get("/cocoon/v1/attestation?nonce=" + attest.NewNonce().String())
	if status != http.StatusNotImplemented || !strings.Contains(text, "not_attested") {
		t.Errorf("%d %s", status, text)
	}
	resp := n.ask(`{"model":"nobody","messages":[]}`)
	defer resp.Body.Close()
	if mode := resp.Header.Get("Cocoon-Mode"); mode != modeUnprotected {
		t.Errorf("mode %q", mode)
	}
}

// TestMode: what an answer says of who can read it is never better than the worse of the two machines.
func TestMode(t *testing.T) {
	s := &Server{}
	for _, tc := range []struct {
		own, worker attest.Verdict
		want        string
	}{
		{attest.Verified, attest.Verified, modeGateway},
		{attest.Verified, attest.Simulated, modeSimulated},
		{attest.Simulated, attest.Verified, modeSimulated},
		{attest.Simulated, attest.Simulated, modeSimulated},
		{attest.Rejected, attest.Verified, modeUnprotected},
		{attest.Unsupported, attest.Verified, modeUnprotected},
		{attest.Rejected, attest.Simulated, modeSimulated},
	} {
		s.self.verdict.Store(&tc.own)
		m := &member{}
		m.result.Store(&attest.Result{Verdict: tc.worker})
		if got := s.mode(m); got != tc.want {
			t.Errorf("gateway %s, worker %s: %s, want %s", tc.own, tc.worker, got, tc.want)
		}
	}
}
