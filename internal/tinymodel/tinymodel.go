// Package tinymodel makes the tiny language model that development and tests run on a real engine: a Llama of 476
// thousand parameters, trained from nothing in plain Go on a made-up corpus, written as GGUF with a tokenizer and a
// chat template. Its answers are known, so that a test can tell one request's answer from another's.
//
// The file in use is built in (Open); making it again takes minutes (go run cocoon/internal/tinymodel/train).
package tinymodel

import (
	_ "embed" // for tiny.gguf
	"math/rand/v2"
	"strings"
)

// SHA256 is the digest of the built-in file, hex.
const SHA256 = "1493ba66f68f90f17213c90b14788627b03e6f3d255f97ae7adc65dbba471a81"

//go:embed tiny.gguf
var file string

// Open reads the built-in model file, GGUF version 3.
func Open() *strings.Reader { return strings.NewReader(file) }

// Shape of the model: small enough to train in minutes on two cores, large enough to learn the corpus by heart.
const (
	vocabMax   = 768 // tokens: 11 special, 256 bytes, the rest merges
	dim        = 128 // width of the residual stream
	layerCount = 2   // the least that can copy words it sees
	headCount  = 4
	ffDim      = 320
	ropeBase   = 10000
	normEps    = 1e-5
	trainedLen = 384 // tokens of the longest training sequence
	tableLen   = 512 // positions the rotary table holds: trainedLen and room for self-checks
	contextLen = 4096
)

// corpusSize is how many conversations the tokenizer learns its merges from.
const corpusSize = 3000

// Tiny is the model with its tokenizer, trained or not.
type Tiny struct {
	tok    *tokenizer
	model  *model
	corpus *sampler
	batch  int // sequences a step
}

// New is the untrained model. The seed decides the corpus, the first weights and the order of training.
func New(seed uint64) *Tiny {
	rng := rand.New(rand.NewPCG(seed, 2))
	s := newSampler(rng)
	texts := map[string]int{}
	for range corpusSize {
		var b strings.Builder
		for _, p := range s.conversation() {
			b.WriteString(p.text)
		}
		texts[b.String()]++
	}
	tok := trainTokenizer(texts)
	return &Tiny{tok, newModel(len(tok.tokens), rng), s, batchSize}
}

// Parameters is how many weights the model has.
func (t *Tiny) Parameters() int {
	n := 0
	for _, p := range t.model.params {
		n += len(p.v)
	}
	return n
}

// Answer is the most likely answer to one question, cut after max tokens. It computes every position anew for
// each token: for self-checks only.
func (t *Tiny) Answer(question string, max int) string {
	ids := t.tok.encode("<|im_start|>user\n" + question + "<|im_end|>\n<|im_start|>assistant\n")
	from := len(ids)
	for len(ids) < from+max && len(ids) < tableLen {
		next := t.model.next(ids)
		if next == t.tok.ids[endOfTurn] {
			break
		}
		ids = append(ids, next)
	}
	return t.tok.decode(ids[from:])
}
