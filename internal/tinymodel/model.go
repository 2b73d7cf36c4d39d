package tinymodel

import (
	"fmt"
	"math"
	"math/rand/v2"
)

const headDim = dim / headCount

// param is one tensor of weights, its gradient and the optimizer's two moments. Vectors have one row.
type param struct {
	name string
	matrix
	grad          matrix
	first, second []float32
}

// layer is one block: attention, then a gated feed-forward net.
type layer struct {
	attnNorm, q, k, v, o, ffnNorm, gate, up, down *param
}

// model is a Llama: RMSNorm, rotary positions, SwiGLU, tied embeddings.
type model struct {
	embd, norm *param
	layers     []layer
	params     []*param // all of them, in the file's order
	cos, sin   matrix   // [tableLen][headDim/2]
	steps      int      // of the optimizer so far
}

// newModel draws the first weights.
func newModel(vocab int, rng *rand.Rand) *model {
	m := &model{}
	mat := func(name string, rows, cols int, std float64) *param {
		w := newMatrix(rows, cols)
		for i := range w.v {
			if rows == 1 {
				w.v[i] = 1
			} else {
				w.v[i] = float32(rng.NormFloat64() * std)
			}
		}
		p := &param{name, w, newMatrix(rows, cols), make([]float32, len(w.v)), make([]float32, len(w.v))}
		m.params = append(m.params, p)
		return p
	}
	s := 1 / math.Sqrt(float64(dim))
	out := s / math.Sqrt(float64(2*layerCount)) // what is added to the residual stream starts small
	m.embd = mat("token_embd.weight", vocab, dim, s*0.5)
	for i := range layerCount {
		b := fmt.Sprintf("blk.%d.", i)
		m.layers = append(m.layers, layer{
			attnNorm: mat(b+"attn_norm.weight", 1, dim, 0),
			q:        mat(b+"attn_q.weight", dim, dim, s),
			k:        mat(b+"attn_k.weight", dim, dim, s),
			v:        mat(b+"attn_v.weight", dim, dim, s),
			o:        mat(b+"attn_output.weight", dim, dim, out),
			ffnNorm:  mat(b+"ffn_norm.weight", 1, dim, 0),
			gate:     mat(b+"ffn_gate.weight", ffDim, dim, s),
			up:       mat(b+"ffn_up.weight", ffDim, dim, s),
			down:     mat(b+"ffn_down.weight", dim, ffDim, out),
		})
	}
	m.norm = mat("output_norm.weight", 1, dim, 0)
	m.lookBack()
	m.rotary()
	return m
}

// lookBack gives the model a start in life: head 0 of layer 0 looks at the previous token, without which copying
// words is not learned in reasonable time. Dimension 0 of every embedding is one constant; q and k of that head see
// only it, with k a rotary step ahead.
func (m *model) lookBack() {
	for v := range m.embd.rows {
		m.embd.row(v)[0] = float32(1.5 / math.Sqrt(float64(dim)))
	}
	q, k := m.layers[0].q, m.layers[0].k
	for i := range headDim / 2 {
		angle := math.Pow(ropeBase, -2*float64(i)/float64(headDim))
		for _, p := range []*param{q, k} {
			clear(p.row(2 * i))
			clear(p.row(2*i + 1))
		}
		q.row(2 * i)[0] = 2
		k.row(2 * i)[0], k.row(2*i + 1)[0] = float32(2*math.Cos(angle)), float32(2*math.Sin(angle))
	}
}

func (m *model) rotary() {
	m.cos, m.sin = newMatrix(tableLen, headDim/2), newMatrix(tableLen, headDim/2)
	for p := range tableLen {
		for i := range headDim / 2 {
			a := float64(p) * math.Pow(ropeBase, -2*float64(i)/float64(headDim))
			m.cos.row(p)[i], m.sin.row(p)[i] = float32(math.Cos(a)), float32(math.Sin(a))
		}
	}
}

// rope turns each head of each row by its position; direction -1 turns back.
func (m *model) rope(x matrix, positions []int, direction float32) {
	for t, p := range positions {
		cos, sin := m.cos.row(p), m.sin.row(p)
		for h := range headCount {
			r := x.head(t, h)
			for i := range headDim / 2 {
				c, s := cos[i], sin[i]*direction
				a, b := r[2*i], r[2*i+1]
				r[2*i], r[2*i+1] = a*c-b*s, a*s+b*c
			}
		}
	}
}

// next is the most likely token after ids.
func (m *model) next(ids []int) int {
	p := m.forward([]sequence{{tokens: ids}})
	last := p.hidden.row(len(ids) - 1)
	best, token := float32(math.Inf(-1)), 0
	for v := range m.embd.rows {
		if s := dot(last, m.embd.row(v)); s > best {
			best, token = s, v
		}
	}
	return token
}

// adam is one step of AdamW with the gradients gathered so far, which it clears.
func (m *model) adam(rate float64) {
	const (
		beta1, beta2 = 0.9, 0.98
		weightDecay  = 0.01
		eps          = 1e-8
	)
	m.steps++
	norm := 0.0
	for _, p := range m.params {
		norm += float64(dot(p.grad.v, p.grad.v))
	}
	norm = math.Sqrt(norm)
	scale := float32(1)
	if norm > clipNorm {
		scale = float32(clipNorm / norm)
	}
	c1, c2 := 1-math.Pow(beta1, float64(m.steps)), 1-math.Pow(beta2, float64(m.steps))
	a := float32(rate / c1)
	ic2 := float32(1 / c2)
	for _, p := range m.params {
		decay := float32(0)
		if p.rows > 1 {
			decay = float32(rate * weightDecay)
		}
		for i, g := range p.grad.v {
			g *= scale
			p.first[i] = beta1*p.first[i] + (1-beta1)*g
			p.second[i] = beta2*p.second[i] + (1-beta2)*g*g
			p.v[i] -= a*p.first[i]/(float32(math.Sqrt(float64(p.second[i]*ic2)))+eps) + decay*p.v[i]
		}
		clear(p.grad.v)
	}
}
