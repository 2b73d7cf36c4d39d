package router

import (
	"time"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
	"cocoon/router/prefix"
)

// Features is a set of what an offer can do beyond plain text.
type Features uint16

// The features that a request can need. Workers that don't name one come after those that do, since some engines don't tell
// what they can; with Wish.RequireParameters they are left out.
const (
	NeedTools Features = 1 << iota
	NeedVision
	NeedThinking
	NeedJSONSchema
	NeedLogprobs

	// featuresHard are those that put workers without them behind others; the rest engines ignore.
	featuresHard = NeedTools | NeedVision
)

// featureNames are the words of package offer for the bits of Features, in their order.
func featureNames() [5]string {
	return [5]string{offer.FeatureTools, offer.FeatureVision, offer.FeatureThinking, offer.FeatureJSONSchema, offer.FeatureLogprobs}
}

// Trust is how well it is proved that nobody but the worker reads a request; a higher one includes the lower.
type Trust uint8

// The levels.
const (
	// Simulated: some hardware on the way is simulated.
	Simulated Trust = iota
	// Unprotected: the worker is attested, the gateway in no confidential machine.
	Unprotected
	// Gateway: the gateway is attested too.
	Gateway
	// Sealed: the gateway can't read the request.
	Sealed
)

// Sort is what a caller wants most.
type Sort uint8

// The sorts.
const (
	// Balanced weighs price against latency.
	Balanced Sort = iota
	// Price is the cheapest that does not keep one waiting for ever (":floor").
	Price
	// Throughput is the fastest whole answer (":nitro").
	Throughput
	// Latency is the earliest first token.
	Latency
	sorts // how many there are
)

// Cap is the most that a caller pays, nanoTON per million tokens; a negative one is no bound.
type Cap struct{ In, Cached, Out nanoton.Amount }

// Wish is what a caller asks of the choice. The zero Wish, but for MaxPrice, asks nothing: see NoWish.
type Wish struct {
	Sort Sort
	// Order has the workers that are to be tried first, one after the other; Only leaves out all others, Ignore those
	// named. Each is a worker's ID, 64 hex digits, or its name in lower case. Workers choose their names themselves.
	Order, Only, Ignore []string
	// NoFallbacks leaves out all but Order's; without an Order all but the first choice.
	NoFallbacks bool
	// RequireParameters leaves out who can't do all that the request asks for.
	RequireParameters bool
	// MaxPrice leaves out who asks more.
	MaxPrice Cap
	// Quantizations leaves out weights of other kinds; "unknown" is one.
	Quantizations []string
	// MinThroughput, tokens a second of one stream, and MaxLatency, to the first token, put whoever is predicted not to reach
	// them behind all others. Zero asks nothing.
	MinThroughput float64
	MaxLatency    time.Duration
	// MinTrust leaves out who is proved less well.
	MinTrust Trust
}

// NoWish asks nothing.
func NoWish() Wish { return Wish{MaxPrice: Cap{-1, -1, -1}} }

// Request is what a pick depends on.
type Request struct {
	// Now is the time on the caller's clock, since some moment that stays.
	Now   time.Duration
	Model string
	// Tenant is a hash of the account, 0 if there is none: whose answers' length is learned.
	Tenant uint64
	// Home is a hash of what stays the same in a conversation, and at all gateways; 0 if there is nothing.
	Home uint64
	// History tells that the request continues a conversation.
	History bool
	// Prefix has the prompt's blocks, nil if unknown. They must stay until the lease is released.
	Prefix []prefix.Block
	// Bytes is the length of the prompt's text.
	Bytes int64
	// MaxOut is the most tokens of all answers together, 0 without a bound.
	MaxOut int64
	// Needs is what the request asks for.
	Needs Features
	// Wish is what the caller asks of the choice, nil for nothing.
	Wish *Wish
	// Tried holds the workers that failed this request already.
	Tried []ID
}
