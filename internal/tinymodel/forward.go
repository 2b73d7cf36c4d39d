package tinymodel

import "math"

// pass is one batch on its way through the model: forward, then loss, then backward.
type pass struct {
	m         *model
	batch     []sequence
	start     []int // row of each sequence's first token
	tokens    []int // of all sequences, one row each
	positions []int // of each row in its sequence
	acts      []*activations
	x         matrix // after the last layer
	hidden    matrix // x, normed
	inv       []float32
	rows      []int  // that have a target: only they need logits
	picked    matrix // hidden of rows
	logits    matrix // of rows; loss leaves the gradient here
}

// activations is what a layer's backward pass needs of its forward pass.
type activations struct {
	x, h, q, k, v, o, mid, h2, gate, up, f matrix
	inv1, inv2                             []float32
	att                                    []matrix // per sequence and head: [len][len], lower triangle
}

// attScale is 1/√headDim: it keeps the attention scores' variance at one.
const attScale float32 = 0.17677669529663687

func (m *model) forward(batch []sequence) *pass {
	p := &pass{m: m, batch: batch}
	for _, s := range batch {
		p.start = append(p.start, len(p.tokens))
		p.tokens = append(p.tokens, s.tokens...)
		for i := range s.tokens {
			p.positions = append(p.positions, i)
		}
	}
	n := len(p.tokens)
	p.x = newMatrix(n, dim)
	for t, id := range p.tokens {
		copy(p.x.row(t), m.embd.row(id))
	}
	for i := range m.layers {
		p.layer(&m.layers[i])
	}
	p.hidden, p.inv = newMatrix(n, dim), make([]float32, n)
	rms(p.hidden, p.x, m.norm, p.inv)
	return p
}

// layer takes p.x through one layer and keeps its activations.
func (p *pass) layer(l *layer) {
	n := len(p.tokens)
	wide := func() matrix { return newMatrix(n, dim) }
	a := &activations{
		x: p.x, h: wide(), q: wide(), k: wide(), v: wide(), o: wide(), mid: wide(), h2: wide(),
		gate: newMatrix(n, ffDim), up: newMatrix(n, ffDim), f: newMatrix(n, ffDim),
		inv1: make([]float32, n), inv2: make([]float32, n), att: make([]matrix, len(p.batch)*headCount),
	}
	p.acts = append(p.acts, a)
	rms(a.h, a.x, l.attnNorm, a.inv1)
	mulT(a.q, a.h, l.q.matrix)
	mulT(a.k, a.h, l.k.matrix)
	mulT(a.v, a.h, l.v.matrix)
	p.m.rope(a.q, p.positions, 1)
	p.m.rope(a.k, p.positions, 1)
	parallel(len(a.att), func(from, to int) {
		for i := from; i < to; i++ {
			p.attend(a, i)
		}
	})
	copy(a.mid.v, a.x.v)
	addMulT(a.mid, a.o, l.o.matrix)
	rms(a.h2, a.mid, l.ffnNorm, a.inv2)
	mulT(a.gate, a.h2, l.gate.matrix)
	mulT(a.up, a.h2, l.up.matrix)
	for i, g := range a.gate.v {
		a.f.v[i] = g / (1 + float32(math.Exp(float64(-g)))) * a.up.v[i]
	}
	p.x = wide()
	copy(p.x.v, a.mid.v)
	addMulT(p.x, a.f, l.down.matrix)
}

// attend is causal attention of one head in one sequence; i counts both.
func (p *pass) attend(a *activations, i int) {
	s, h := i/headCount, i%headCount
	n, base := len(p.batch[s].tokens), p.start[s]
	a.att[i] = newMatrix(n, n)
	for t := range n {
		q, row := a.q.head(base+t, h), a.att[i].row(t)[:t+1]
		top := float32(math.Inf(-1))
		for u := range row {
			row[u] = dot(q, a.k.head(base+u, h)) * attScale
			top = max(top, row[u])
		}
		var sum float32
		for u := range row {
			row[u] = float32(math.Exp(float64(row[u] - top)))
			sum += row[u]
		}
		o := a.o.head(base+t, h)
		for u := range row {
			row[u] /= sum
			axpy(o, a.v.head(base+u, h), row[u])
		}
	}
}

// loss compares the predictions with the targets and leaves the gradient of the mean loss in p.logits.
func (p *pass) loss() Step {
	var targets []int
	for s, q := range p.batch {
		for i := 0; i+1 < len(q.tokens); i++ {
			if q.learn[i+1] {
				p.rows = append(p.rows, p.start[s]+i)
				targets = append(targets, q.tokens[i+1])
			}
		}
	}
	n := len(p.rows)
	p.picked, p.logits = newMatrix(n, dim), newMatrix(n, p.m.embd.rows)
	for i, t := range p.rows {
		copy(p.picked.row(i), p.hidden.row(t))
	}
	mulT(p.logits, p.picked, p.m.embd.matrix)
	step := Step{Targets: n}
	for i, target := range targets {
		row := p.logits.row(i)
		top, arg := row[0], 0
		for j, v := range row {
			if v > top {
				top, arg = v, j
			}
		}
		if arg == target {
			step.Hits++
		}
		var sum float64
		for j, v := range row {
			e := math.Exp(float64(v - top))
			row[j] = float32(e)
			sum += e
		}
		step.Loss -= math.Log(float64(row[target])/sum + 1e-30)
		inv := float32(1 / sum / float64(n))
		for j := range row {
			row[j] *= inv
		}
		row[target] -= 1 / float32(n)
	}
	step.Loss /= float64(max(n, 1))
	return step
}

// rms is y = x / rms(x) * gain, row by row; inv keeps 1/rms.
func rms(y, x matrix, gain *param, inv []float32) {
	for t := range x.rows {
		xr, yr := x.row(t), y.row(t)
		s := dot(xr, xr)/float32(x.cols) + normEps
		r := float32(1 / math.Sqrt(float64(s)))
		inv[t] = r
		for i, v := range xr {
			yr[i] = v * r * gain.v[i]
		}
	}
}
