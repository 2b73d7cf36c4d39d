package collateral

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"cocoon/attest"
	"cocoon/internal/strictjson"
)

// bundleVersion is that of bundles.
const bundleVersion = 1

// Limits on a bundle: what a cache may hold, in base64.
const (
	bundleMax      = bytesMax*4/3 + 1<<20
	bundleItemsMax = entriesMax
)

// bundle is its JSON.
type bundle struct {
	V     int           `json:"v"`
	Items []attest.Item `json:"items"`
}

// Export writes what is kept and hasn't ended as a bundle: one file to verify with where there is no network.
func (s *Store) Export(w io.Writer, now time.Time) error {
	s.mu.Lock()
	var items []attest.Item
	for _, key := range slices.Sorted(maps.Keys(s.entries)) {
		if e := s.entries[key]; e.valid(now) {
			items = append(items, e.item())
		}
	}
	s.mu.Unlock()
	return WriteBundle(w, items)
}

// WriteBundle writes items as a bundle.
func WriteBundle(w io.Writer, items []attest.Item) error {
	if items == nil {
		items = []attest.Item{} // [] and not null
	}
	text, err := json.Marshal(bundle{V: bundleVersion, Items: items})
	if err != nil {
		return fmt.Errorf("writing a bundle: %w", err)
	}
	if len(items) > bundleItemsMax || len(text) > bundleMax {
		return fmt.Errorf("writing a bundle: %d items, %d bytes; at most %d, %d", len(items), len(text), bundleItemsMax,
			bundleMax)
	}
	if _, err := w.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("writing a bundle: %w", err)
	}
	return nil
}

// ReadBundle reads a bundle. Its items are to be added to the endorsements of the evidence to verify: like those, they
// may come from anyone, and prove nothing before they are verified.
func ReadBundle(r io.Reader) ([]attest.Item, error) {
	text, err := io.ReadAll(io.LimitReader(r, bundleMax+1))
	if err != nil {
		return nil, fmt.Errorf("reading a bundle: %w", err)
	}
	if len(text) > bundleMax {
		return nil, fmt.Errorf("reading a bundle: more than %d bytes", bundleMax)
	}
	var b bundle
	if err := strictjson.Decode(text, &b); err != nil {
		return nil, fmt.Errorf("reading a bundle: %w", err)
	}
	if b.V != bundleVersion || len(b.Items) > bundleItemsMax {
		return nil, fmt.Errorf("reading a bundle: version %d with %d items, want version %d and at most %d", b.V,
			len(b.Items), bundleVersion, bundleItemsMax)
	}
	kinds := []attest.Kind{attest.SNPKey, attest.SNPChain, attest.TDXCollateral, attest.GPURIM, attest.GPUOCSP}
	for i, item := range b.Items {
		if !slices.Contains(kinds, item.Kind) || len(item.Data) == 0 || len(item.Data) > dataMax {
			return nil, fmt.Errorf("reading a bundle: item %d is of kind %.32q with %d bytes, want a known kind, 1 to %d bytes",
				i, item.Kind, len(item.Data), dataMax)
		}
	}
	return b.Items, nil
}
