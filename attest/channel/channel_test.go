package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/attest"
)

func TestParseRequest(t *testing.T) {
	nonce := attest.NewNonce()
	for _, bind := range []bool{false, true} {
		want := Request{V: 1, Nonce: nonce, Bind: bind}
		if got, err := ParseRequest(want.Marshal()); err != nil || got != want {
			t.Errorf("%s: %+v, %v", want.Marshal(), got, err)
		}
	}
	good := `{"v":1,"nonce":"` + nonce.String() + `","bind":true}`
	if got := (Request{V: 1, Nonce: nonce, Bind: true}).Marshal(); string(got) != good {
		t.Errorf("%s, want %s", got, good)
	}
	tests := map[string]string{
		"empty":          "",
		"null":           "null",
		"other version":  strings.Replace(good, `"v":1`, `"v":2`, 1),
		"no version":     strings.Replace(good, `"v":1,`, ``, 1),
		"no nonce":       `{"v":1,"bind":true}`,
		"zero nonce":     string(Request{V: 1, Bind: true}.Marshal()),
		"short nonce":    strings.Replace(good, nonce.String(), nonce.String()[:62], 1),
		"capitals":       strings.Replace(good, nonce.String(), strings.Repeat("AB", 32), 1),
		"bind no bool":   strings.Replace(good, "true", "1", 1),
		"unknown member": strings.Replace(good, "}", `,"x":1}`, 1),
		"two values":     good + good,
		"trailing":       good + "x",
		"an array":       "[" + good + "]",
		"long":           good + strings.Repeat(" ", requestMax),
		"deep":           strings.Repeat("[", requestMax),
	}
	for name, text := range tests {
		if r, err := ParseRequest([]byte(text)); err == nil || r != (Request{}) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"nonce":"` + attest.NewNonce().String() + `","bind":true}`))
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(` {"V":1,"nonce":null,"nonce":"00"} `))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRequest(text)
		if err != nil {
			return
		}
		if r.V != attest.Version || r.Nonce.IsZero() {
			t.Errorf("accepted %+v", r)
		}
		if again, err := ParseRequest(r.Marshal()); err != nil || again != r {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

// TestBound: what a verifier expects is what the machine makes on the same connection, and on no other.
func TestBound(t *testing.T) {
	r := &Responder{
		Attester: new(machine), Keyset: testKeyset,
		Endorse: func(_ context.Context, e *attest.Evidence) []attest.Item {
			return []attest.Item{{Kind: attest.SNPChain, Data: e.CPU[:4]}}
		},
	}
	c, err := NewChallenge(connection("ours"))
	if err != nil {
		t.Fatal(err)
	}
	for name, far := range map[string]string{"same connection": "ours", "relayed to another": "theirs"} {
		answer, err := r.Answer(t.Context(), connection(far), c.Request())
		if err != nil {
			t.Fatal(err)
		}
		e, err := c.Open(answer)
		if err != nil {
			t.Fatal(err)
		}
		want := attest.ReportData(c.Nonce, c.Binder, e.Keyset, e.Devices)
		if same := bytes.Equal(e.CPU, want[:]); same != (far == "ours") {
			t.Errorf("%s: right report data: %v", name, same)
		}
		if len(e.Endorsements) != 2 || e.Endorsements[1].Kind != attest.SNPChain || !bytes.Equal(e.Keyset, testKeyset()) {
			t.Errorf("%s: %d endorsements, keyset %s", name, len(e.Endorsements), e.Keyset)
		}
	}
	other, err := NewChallenge(connection("ours"))
	if err != nil {
		t.Fatal(err)
	}
	if other.Nonce == c.Nonce || other.Binder == c.Binder {
		t.Error("two challenges have the same nonce or binder")
	}
	answer, err := r.Answer(t.Context(), connection("ours"), c.Request())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(answer); err == nil || !strings.Contains(err.Error(), other.Nonce.String()) {
		t.Errorf("another challenge's answer: %v", err)
	}
	if _, err := c.Open(answer[1:]); err == nil {
		t.Error("garbage was opened")
	}
}

// TestUnbound: evidence for relaying has the zero binder, whatever connection the request came on.
func TestUnbound(t *testing.T) {
	r := &Responder{Attester: new(machine), Keyset: testKeyset}
	nonce := attest.NewNonce()
	for _, export := range []Exporter{nil, connection("ours")} {
		answer, err := r.Answer(t.Context(), export, Request{V: 1, Nonce: nonce}.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		e, err := attest.ParseEvidence(answer)
		if err != nil {
			t.Fatal(err)
		}
		want := attest.ReportData(nonce, attest.Digest{}, e.Keyset, e.Devices)
		if e.Nonce != nonce || !bytes.Equal(e.CPU, want[:]) {
			t.Error("the report is not over the nonce and the zero binder")
		}
	}
}

func TestRefusedChallenges(t *testing.T) {
	bound := Request{V: 1, Nonce: attest.NewNonce(), Bind: true}.Marshal()
	broken := func(string, []byte, int) ([]byte, error) { return nil, errors.New("no keys") }
	short := func(string, []byte, int) ([]byte, error) { return make([]byte, 31), nil }
	zero := func(string, []byte, int) ([]byte, error) { return make([]byte, 32), nil }
	big := func(context.Context, *attest.Evidence) []attest.Item {
		return []attest.Item{{Kind: attest.SNPKey, Data: make([]byte, attest.EvidenceMax)}}
	}
	m, burning := new(machine), &machine{err: errors.New("on fire")}
	good := connection("ours")
	tests := map[string]struct {
		r       *Responder
		export  Exporter
		request []byte
		want    string
	}{
		"bound to nothing":  {&Responder{Attester: m, Keyset: testKeyset}, nil, bound, "needs a connection"},
		"broken connection": {&Responder{Attester: m, Keyset: testKeyset}, broken, bound, "no keys"},
		"short secret":      {&Responder{Attester: m, Keyset: testKeyset}, short, bound, "31 bytes"},
		"zero secret":       {&Responder{Attester: m, Keyset: testKeyset}, zero, bound, "zero"},
		"no request":        {&Responder{Attester: m, Keyset: testKeyset}, good, nil, "challenge"},
		"no machine":        {&Responder{Keyset: testKeyset}, good, bound, "can't attest"},
		"no keyset":         {&Responder{Attester: m}, good, bound, "can't attest"},
		"empty keyset":      {&Responder{Attester: m, Keyset: func() []byte { return nil }}, good, bound, "keyset"},
		"hardware fails":    {&Responder{Attester: burning, Keyset: testKeyset}, good, bound, "on fire"},
		"too long":          {&Responder{Attester: m, Keyset: testKeyset, Endorse: big}, good, bound, "at most"},
	}
	for name, tt := range tests {
		text, err := tt.r.Answer(t.Context(), tt.export, tt.request)
		if err == nil || text != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %d bytes, %v, want %s", name, len(text), err, tt.want)
		}
	}
	for name, export := range map[string]Exporter{"no connection": nil, "broken": broken, "short": short, "zero": zero} {
		if _, err := NewChallenge(export); err == nil {
			t.Errorf("%s: a challenge was made", name)
		}
	}
}

// TestOneAtTheHardware: others wait, up to a bound for each kind, and a context ends waiting.
func TestOneAtTheHardware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{let: make(chan struct{})}
		r := &Responder{Attester: m, Keyset: testKeyset}
		var all sync.WaitGroup
		var busy, answered, ended atomic.Int64
		ask := func(ctx context.Context, bind bool) {
			all.Go(func() {
				_, err := r.Answer(ctx, connection("ours"), Request{V: 1, Nonce: attest.NewNonce(), Bind: bind}.Marshal())
				switch {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, ErrBusy):
					busy.Add(1)
				case errors.Is(err, context.Canceled):
					ended.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		for range relayedMax + 3 {
			ask(t.Context(), false)
		}
		synctest.Wait()
		if n := busy.Load(); n != 3 || m.inside.Load() != 1 {
			t.Errorf("%d are told to come back, want 3; %d in the hardware", n, m.inside.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range boundMax {
			ask(ctx, true) // which the others do not keep out
		}
		synctest.Wait()
		ask(t.Context(), true)
		synctest.Wait()
		if n := busy.Load(); n != 4 {
			t.Errorf("%d are told to come back, want 4", n)
		}
		cancel()
		synctest.Wait()
		if n := ended.Load(); n != boundMax {
			t.Errorf("%d have stopped waiting, want %d", n, boundMax)
		}
		close(m.let)
		all.Wait()
		if answered.Load() != relayedMax || m.most.Load() != 1 || m.reports.Load() != relayedMax {
			t.Errorf("%d answers, %d reports, %d at once", answered.Load(), m.reports.Load(), m.most.Load())
		}
		ask(t.Context(), true) // and all places are free again
		ask(t.Context(), false)
		all.Wait()
		if answered.Load() != relayedMax+2 {
			t.Errorf("%d answers", answered.Load())
		}
		time.Sleep(time.Second) // of the bubble: nothing is left that would wake
	})
}

// TestRelayedJSON: proofs and evidence survive the listing they travel in.
func TestRelayedJSON(t *testing.T) {
	root, proofs := tree([]attest.Digest{attest.NewNonce(), attest.NewNonce(), attest.NewNonce()})
	for i, p := range proofs {
		text, err := json.Marshal(Attestation{V: 1, Relayed: Relayed{Evidence: json.RawMessage(`{"v":1}`), Proof: p}})
		if err != nil {
			t.Fatal(err)
		}
		var back Attestation
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if back.Proof.Index != i || back.Proof.Size != 3 || len(back.Proof.Path) != len(p.Path) || root.IsZero() {
			t.Errorf("%s", text)
		}
	}
	_, proofs = tree([]attest.Digest{attest.NewNonce()})
	if text, err := json.Marshal(proofs[0]); err != nil || string(text) != `{"index":0,"size":1,"path":[]}` {
		t.Errorf("%s, %v", text, err)
	}
}
