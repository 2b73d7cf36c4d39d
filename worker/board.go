package worker

import (
	"context"
	"encoding/json"
	"reflect"
	"strconv"
	"sync"
	"time"

	"cocoon/router/offer"
)

// loadGap is the least time between two sheets that differ in load only: routers count their own requests, so that a
// quarter of a second is early enough to learn of others'.
const loadGap = 250 * time.Millisecond

// board holds the sheet that gateways see, and wakes those who wait for a newer one.
type board struct {
	load func() offer.Load // asked when a sheet is made

	mu      sync.Mutex
	sheet   offer.Sheet
	rest    []byte        // of the sheet's JSON: all but the version and the load
	text    []byte        // the sheet's JSON; readers keep it, so that it is never written to again
	changed chan struct{} // closed and replaced with each new sheet
	ended   bool          // the worker stops: it drains whatever else is said

	stale chan struct{} // load may have changed
}

func newBoard(name string, load func() offer.Load) *board {
	b := &board{
		load: load, changed: make(chan struct{}), stale: make(chan struct{}, 1),
		sheet: offer.Sheet{V: offer.Version, Version: 1, Name: name, Offers: []offer.Offer{}},
	}
	b.rest = encodeRest(&b.sheet)
	b.text = b.encode()
	return b
}

// report implements tunnel.DialerConfig.Report.
func (b *board) report(ctx context.Context, after uint64) (uint64, []byte) {
	for {
		b.mu.Lock()
		version, text, changed := b.sheet.Version, b.text, b.changed
		b.mu.Unlock()
		if version > after {
			return version, text
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return after, nil
		}
	}
}

// set replaces the offers; gateways learn of it at once if they differ.
func (b *board) set(offers []offer.Offer) {
	if offers == nil {
		offers = []offer.Offer{} // in JSON [], not null
	}
	b.update(func(s *offer.Sheet) { s.Offers = offers })
}

// pay tells gateways where earnings go, and what they promised.
func (b *board) pay(to *offer.Payout, vouchers [][]byte) {
	b.update(func(s *offer.Sheet) { s.Payout, s.Vouchers = to, vouchers })
}

// drain tells gateways to send no more, or to send again.
func (b *board) drain(on bool) {
	b.update(func(s *offer.Sheet) { s.Draining = on || b.ended })
}

// end tells gateways to send no more, ever.
func (b *board) end() {
	b.update(func(s *offer.Sheet) { s.Draining, b.ended = true, true })
}

// touch says that load may have changed; run makes a sheet of it.
func (b *board) touch() {
	select {
	case b.stale <- struct{}{}:
	default:
	}
}

// run publishes changes of load, with loadGap between them, until ctx ends.
func (b *board) run(ctx context.Context) {
	gap := time.NewTimer(0)
	defer gap.Stop()
	for {
		select {
		case <-gap.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-b.stale:
			b.reload()
			gap.Reset(loadGap)
		case <-ctx.Done():
			return
		}
	}
}

// update changes the sheet under the lock, and publishes it if anything is different.
func (b *board) update(change func(*offer.Sheet)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.sheet
	next.Load = b.load()
	change(&next)
	if reflect.DeepEqual(next, b.sheet) {
		return
	}
	b.rest = encodeRest(&next)
	b.publish(next)
}

// reload publishes the sheet if the load is another. It comes four times a second while there are requests: nothing but
// the load is compared or encoded.
func (b *board) reload() {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.sheet
	if next.Load = b.load(); next.Load != b.sheet.Load {
		b.publish(next)
	}
}

// publish makes a sheet the newest and wakes the readers. The lock is held; rest is of it.
func (b *board) publish(next offer.Sheet) {
	next.Version++
	b.sheet = next
	b.text = b.encode()
	close(b.changed)
	b.changed = make(chan struct{})
}

// encode writes the sheet around its rest.
func (b *board) encode() []byte {
	const room = 160 // for four numbers and their names
	text := append(make([]byte, 0, len(b.rest)+room), `{"v":`...)
	text = strconv.AppendInt(text, int64(b.sheet.V), 10)
	text = append(text, `,"version":`...)
	text = strconv.AppendUint(text, b.sheet.Version, 10)
	text = append(text, `,"load":{"running":`...)
	text = strconv.AppendInt(text, int64(b.sheet.Load.Running), 10)
	text = append(text, `,"queued":`...)
	text = strconv.AppendInt(text, int64(b.sheet.Load.Queued), 10)
	text = append(text, `},`...)
	return append(text, b.rest[1:]...) // without its brace
}

// encodeRest writes what encode does not. It can't fail: a sheet is strings and numbers.
func encodeRest(s *offer.Sheet) []byte {
	text, err := json.Marshal(&struct {
		Name     string        `json:"name"`
		Draining bool          `json:"draining,omitempty"`
		Offers   []offer.Offer `json:"offers"`
		Payout   *offer.Payout `json:"payout,omitempty"`
		Vouchers [][]byte      `json:"vouchers,omitempty"`
	}{s.Name, s.Draining, s.Offers, s.Payout, s.Vouchers})
	if err != nil {
		panic("worker: internal error: " + err.Error())
	}
	return text
}
