package prefix_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"cocoon/router/prefix"
)

// All at once, in a table so small that slots change hands all the time. Each holder gets prompts of one tenant only:
// so whoever is named for another tenant's prompt was named by a race, and stays named for no longer than that lasts.
func TestHammer(t *testing.T) {
	const tenants, texts, each = 8, 64, 1500
	x := prefix.New(prefix.Config{Slots: 512})
	var prompts [tenants][texts][]prefix.Block
	for tenant := range uint64(tenants) {
		for i := range uint64(texts) {
			prompts[tenant][i] = x.Hash(nil, tenant, text(i, int(2+i%7)<<10))
		}
	}
	var running sync.WaitGroup
	for g := range uint64(8) {
		running.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 1))
			var hits [8]prefix.Hit
			var dst []prefix.Block
			for range each {
				tenant := rnd.IntN(tenants)
				h := prefix.Holder(tenant + tenants*rnd.IntN(400))
				p := prompts[tenant][rnd.IntN(texts)]
				switch rnd.IntN(20) {
				case 0:
					x.Forget(h)
				case 1:
					x.Resize(h, rnd.IntN(3000))
				case 2:
					dst = x.Hash(dst[:0], uint64(tenant), make([]byte, 9000))
				case 3, 4, 5, 6:
					checkHits(t, p, hits[:x.Find(p, hits[:])])
				default:
					x.Resize(h, 1000)
					x.Add(h, p)
				}
			}
		})
	}
	running.Wait()
	found := 0
	for tenant := range tenants {
		for _, p := range prompts[tenant] {
			hits := find(x, p, 8)
			checkHits(t, p, hits)
			found += len(hits)
			for _, hit := range hits {
				if int(hit.Holder)%tenants != tenant {
					t.Errorf("holder %d has %d blocks of a prompt of tenant %d", hit.Holder, hit.Blocks, tenant)
				}
			}
		}
	}
	if found == 0 {
		t.Error("nothing is found")
	}
}

// checkHits: in order, distinct, and within the prompt.
func checkHits(t *testing.T, p []prefix.Block, hits []prefix.Hit) {
	t.Helper()
	seen := map[prefix.Holder]bool{}
	for i, hit := range hits {
		if seen[hit.Holder] || hit.Blocks < 1 || hit.Blocks > len(p) || i > 0 && hit.Blocks > hits[i-1].Blocks {
			t.Errorf("of %d blocks: %v", len(p), hits)
			return
		}
		seen[hit.Holder] = true
	}
}
