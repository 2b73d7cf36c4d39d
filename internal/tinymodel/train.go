package tinymodel

import (
	"context"
	"math"
)

// Training constants that the built-in file was made with.
const (
	batchSize    = 24
	learningRate = 3e-3 // at its peak, after warmupSteps
	warmupSteps  = 50
	clipNorm     = 1 // gradients longer than this are shortened to it
)

// Step is how one training step went.
type Step struct {
	Number, Tokens int     // steps so far, tokens read so far
	Loss           float64 // mean over the step's target tokens, nats
	Hits, Targets  int     // targets whose most likely token was right, and all targets
}

// Train runs the given number of steps and reports each; it ends early when ctx does. The learning rate falls along
// a cosine over all steps, so a run of 100 is no prefix of a run of 2,000. The weights are then what the file will
// hold: rounded to half precision. Every run with the same seed, steps and compiler flags gives the same weights.
func (t *Tiny) Train(ctx context.Context, steps int, report func(Step)) error {
	tokens := 0
	for i := 1; i <= steps; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch := make([]sequence, t.batch)
		for j := range batch {
			batch[j] = t.corpus.sequence(t.tok, trainedLen)
			tokens += len(batch[j].tokens)
		}
		p := t.model.forward(batch)
		s := p.loss()
		p.backward()
		progress := float64(i) / float64(steps)
		decay := 0.02 + 0.98*0.5*(1+math.Cos(math.Pi*progress))
		t.model.adam(learningRate * min(1, float64(i)/warmupSteps) * decay)
		s.Number, s.Tokens = i, tokens
		report(s)
	}
	for _, p := range t.model.params {
		if p.rows == 1 {
			continue // norms stay in full precision
		}
		for i, v := range p.v {
			p.v[i] = fromHalf(toHalf(v))
		}
	}
	return nil
}
