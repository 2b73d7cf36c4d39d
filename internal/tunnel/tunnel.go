// Package tunnel connects workers to gateways: the worker dials out, then the roles turn and the worker serves HTTP/1.1
// over the connections that it dialed.
//
// A worker shows a self-signed TLS leaf and is known by the hash of its key. On each connection the gateway says hello
// first. One control connection makes a session: over it the gateway has the worker attest itself, at once and again
// from time to time, and polls the worker's report, which is the heartbeat as well. Data connections name their session
// and prove that they end in the same memory; the worker keeps some of them idle, the gateway takes them for requests.
// When the control connection ends all of them end, on both sides.
//
// What is in a challenge and in its answer, in an exchange of receipts and the signing of them, and in what the gateway tells of its market, is not
// known here: all are bytes.
package tunnel

import (
	"errors"
	"time"
)

// Request headers between gateways and workers.
const (
	// LackHeader is in which a gateway tells a worker how many connections it lacked.
	LackHeader = "Cocoon-Lack"
	// SaltHeader has a secret of the client's tenant, 43 characters of base64url, the same for all that one asks: what an
	// engine keeps of a prompt serves nobody else. Handlers read it, this package does not.
	SaltHeader = "Cocoon-Cache-Salt"
)

const (
	// alpn is the TLS protocol name; a change of anything below that an old peer can't speak gets a new one.
	alpn = "cocoon-worker/1"
	// version is that of the JSON in hello.
	version = 1

	wellKnown  = "/.well-known/cocoon/"
	helloPath  = wellKnown + "hello"
	reportPath = wellKnown + "report"
	attestPath = wellKnown + "attest"

	receiptsPath = wellKnown + "receipts"
	marketPath   = wellKnown + "market"
	countersign  = wellKnown + "countersign"

	kindControl = "control"
	kindData    = "data"

	// exporterLabel names the TLS exporter that ties data connections to their control connection.
	exporterLabel = "EXPORTER-cocoon-data-v1"
	exporterSize  = 32

	// host is what the gateway writes as Host: the worker has no name, and nothing reads it.
	host = "worker"
)

// Limits. What a peer could grow without end has one.
const (
	// ReportMax bounds a worker's report, bytes: 256 offers with long names fit several times.
	ReportMax = 1 << 20
	// answerMax adds the envelope around a report.
	answerMax = ReportMax + 1<<10
	// helloMax bounds the JSON of a hello in both directions; it is some 200 bytes.
	helloMax = 4 << 10
	// wordsMax bounds why a worker is refused, bytes: a sentence and an ID.
	wordsMax = 512
	// sessionSize is the length of a session's name, hex digits.
	sessionSize = 16
	// strangersMax bounds connections that have not said who they are, so that a flood can't take all descriptors.
	strangersMax = 256
	// dataMax bounds one worker's data connections, which are its requests at once.
	dataMax = 4096
	// sessionsMax bounds workers: each holds some goroutine, control connection and idle data connections.
	sessionsMax = 10_000
	// headerMax bounds a request's head at the worker, bytes.
	headerMax = 64 << 10
	// idleMin is how many idle data connections a worker keeps for a burst after silence.
	idleMin = 4
	// idleMax bounds them under load: beyond it the pool grows by steps, so that thousands of streams do not hold as
	// many connections that nobody uses.
	idleMax = 64
	// dialsMax bounds a worker's dials at once, well below strangersMax: others dial too.
	dialsMax = 32
	// sweepBatch bounds the idle connections that are checked under a worker's lock in one go: some 30 us.
	sweepBatch = 64
)

// timings are the protocol's, in a struct so that tests can shorten them.
type timings struct {
	hello     time.Duration // from accept or dial to the end of hello
	patience  time.Duration // a stranger's minimum when all their places are taken: more than a handshake takes
	poll      time.Duration // the worker answers a poll at the latest after this
	pollGap   time.Duration // between the starts of two polls: a worker can't make the gateway work more often
	answer    time.Duration // the gateway waits for the answer to a poll
	silence   time.Duration // the worker waits for the next poll; hello's hold plus answer
	evidence  time.Duration // the worker makes evidence: a TDX quote and the reports of 8 GPUs take seconds each
	verdict   time.Duration // the gateway attests a worker: evidence and vendors' collateral; no poll comes meanwhile
	receipts  time.Duration // the worker takes acknowledgements and presents receipts: a write or two to disk
	sign      time.Duration // the worker signs receipts again, all in all
	take      time.Duration // Take waits for a data connection
	surplus   time.Duration // a data connection idle for so long is closed if it is one too many
	backoff   time.Duration // first wait before a dial is tried again; doubles
	backoffTo time.Duration // longest wait
	grace     time.Duration // running requests may take this to finish when the worker stops
	linger    time.Duration // the gateway may take this to read their answers
}

func defaults() timings {
	return timings{
		hello:     5 * time.Second,
		patience:  time.Second,
		poll:      5 * time.Second,
		pollGap:   100 * time.Millisecond,
		answer:    10 * time.Second,
		silence:   15 * time.Second,
		evidence:  30 * time.Second,
		verdict:   60 * time.Second,
		receipts:  10 * time.Second,
		sign:      2 * time.Second,
		take:      2 * time.Second,
		surplus:   60 * time.Second,
		backoff:   250 * time.Millisecond,
		backoffTo: 15 * time.Second,
		grace:     3 * time.Second,
		linger:    50 * time.Millisecond,
	}
}

var (
	// ErrGone means that the worker's session has ended. It may be back as another Worker.
	ErrGone = errors.New("worker is gone")
	// ErrNoConn means that the worker is there but had no data connection free in time.
	ErrNoConn = errors.New("no free connection to the worker")
	// ErrReplaced ends a session whose worker opened a newer one.
	ErrReplaced = errors.New("replaced by a newer session of the same worker")
	// ErrRefused ends or prevents a session that Admit does not allow; at the worker, that it is the gateway's word.
	ErrRefused = errors.New("refused by gateway")
	// ErrClosed ends the sessions of a gateway that stops.
	ErrClosed = errors.New("gateway stops")

	errPeer   = errors.New("peer broke the protocol")
	errSilent = errors.New("no sign of life from the gateway")
)

// hello is what the gateway says first on every connection.
type hello struct {
	V       int    `json:"v"`
	Refused string `json:"refused,omitempty"` // why this worker is not admitted
}

// helloAnswer is what the connection is for.
type helloAnswer struct {
	V       int    `json:"v"`
	Kind    string `json:"kind"`
	Session string `json:"session"`         // 16 hex digits, chosen by the worker
	Proof   string `json:"proof,omitempty"` // of a data connection: hex of proof
}

// clip cuts words from a peer or a callback down to n bytes.
func clip(s string, n int) string { return s[:min(len(s), n)] }
