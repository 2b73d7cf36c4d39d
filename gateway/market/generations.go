package market

import (
	"sync"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/router"
	"cocoon/router/offer"
)

const (
	// GenerationsMax is how many requests are kept, the newest: 11 MB when all are there. What is older is in the receipts.
	GenerationsMax = generationShards * perShard
	// PastMax is how many attempts of a request are kept beside the one that served.
	PastMax = 3

	generationShards = 64
	perShard         = 256
)

// RequestID is a request's name without req_: its 16 bytes. The last digit counts attempts, and is not compared.
type RequestID [16]byte

func (id RequestID) stem() RequestID {
	id[len(id)-1] &= 0xf0
	return id
}

// Attempt is one worker that was asked.
type Attempt struct {
	// Model is what it was asked for: with fallbacks, each attempt's may be another.
	Model string
	// Reason says how it failed, a word of a closed set; empty if it did not.
	Reason string
	// Worker is who, and Why what the router knew.
	Worker router.ID
	Why    router.Why
	// Started and Ended are since the request.
	Started, Ended time.Duration
	Outcome        router.Outcome
}

// Generation is what is kept of a request: nothing of what was asked and answered, and no key.
type Generation struct {
	ID RequestID
	// Account is whose request it was: nobody else may hear of it.
	Account string
	// Asked is the model that the client named, Served the one that answered; empty if none did.
	Asked, Served string
	// Mode is who could read it, Finish why the answer ended ("stop", "length"); empty if not known.
	Mode, Finish string
	Created      time.Time
	// TTFT is from the request to the first content that the client was sent, 0 if there was none or it was not streamed;
	// Total to the end.
	TTFT, Total time.Duration
	// In, Cached, Out and Reasoning are tokens; Cached is part of In, and Reasoning of Out.
	In, Cached, Out, Reasoning int64
	// Price is the customer's, nanoTON per million tokens, and Cost what is paid; Priced tells that it is known: it is not yet
	// if the answer broke off.
	Price  offer.Price
	Cost   nanoton.Amount
	Priced bool
	// Status is the HTTP status that the client got, 499 if it left; Error the code of the error if there was one.
	Status int
	Error  string

	Streamed bool
	// Past are the attempts that did not serve in their order, but for Dropped of them, and Last the one that did; its Model is
	// empty if none did. Of nearly all requests there is only Last.
	Past    []Attempt
	Last    Attempt
	Dropped int
}

// Generations keeps the last requests. Its methods may be called concurrently; requests share a lock with one in 64 others,
// for the time of copying one record.
type Generations struct {
	shards [generationShards]shard
}

// shard is a part of them, by their IDs, which are random.
type shard struct {
	mu   sync.Mutex
	ids  [perShard]RequestID // what is looked through; zeros: none
	kept []Generation        // nil before the first; then perShard
	next int                 // the oldest, which goes first
}

// NewGenerations keeps none yet. The memory is taken as requests come.
func NewGenerations() *Generations { return new(Generations) }

// Keep keeps a copy of the record in the place of the oldest. Past is the keeper's from here on.
func (g *Generations) Keep(r *Generation) {
	id := r.ID.stem()
	s := &g.shards[id[0]%generationShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = make([]Generation, perShard)
	}
	s.ids[s.next] = id
	kept := &s.kept[s.next]
	*kept = *r
	if r.Asked == r.Served {
		kept.Asked = r.Served // one text for both: the request's own may go
	}
	s.next = (s.next + 1) % perShard
}

// Find is a copy of what is kept of a request, by the name of any of its attempts; false if nothing is, any more or at all.
func (g *Generations) Find(id RequestID) (Generation, bool) {
	id = id.stem()
	s := &g.shards[id[0]%generationShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.ids {
		if s.ids[i] == id && s.kept != nil && id != (RequestID{}) {
			return s.kept[i], true
		}
	}
	return Generation{}, false
}
