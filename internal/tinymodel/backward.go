package tinymodel

import "math"

// backward adds the gradient of the loss to every param.
func (p *pass) backward() {
	m, n := p.m, len(p.tokens)
	dPicked := newMatrix(len(p.rows), dim)
	mulT(dPicked, p.logits, m.embd.transposed())
	addMulT(m.embd.grad, p.logits.transposed(), p.picked.transposed())
	dHidden := newMatrix(n, dim)
	for i, t := range p.rows {
		copy(dHidden.row(t), dPicked.row(i))
	}
	dx := newMatrix(n, dim)
	rmsBack(dx, dHidden, p.x, m.norm, p.inv)
	for i := len(m.layers) - 1; i >= 0; i-- {
		p.feedForwardBack(dx, &m.layers[i], p.acts[i])
		p.attentionBack(dx, &m.layers[i], p.acts[i])
	}
	for t, id := range p.tokens {
		axpy(m.embd.grad.row(id), dx.row(t), 1)
	}
}

// mulBack is the way back through out = in·wᵀ: it adds to w's gradient and to dIn.
func mulBack(dIn, dOut, in matrix, w *param) {
	addMulT(w.grad, dOut.transposed(), in.transposed())
	addMulT(dIn, dOut, w.transposed())
}

func (p *pass) feedForwardBack(dx matrix, l *layer, a *activations) {
	n := len(p.tokens)
	df, dGate, dUp := newMatrix(n, ffDim), newMatrix(n, ffDim), newMatrix(n, ffDim)
	mulBack(df, dx, a.f, l.down)
	for i, g := range a.gate.v {
		s := 1 / (1 + float32(math.Exp(float64(-g))))
		dUp.v[i] = df.v[i] * g * s
		dGate.v[i] = df.v[i] * a.up.v[i] * s * (1 + g*(1-s))
	}
	dh := newMatrix(n, dim)
	mulBack(dh, dGate, a.h2, l.gate)
	mulBack(dh, dUp, a.h2, l.up)
	rmsBack(dx, dh, a.mid, l.ffnNorm, a.inv2)
}

func (p *pass) attentionBack(dx matrix, l *layer, a *activations) {
	n := len(p.tokens)
	d := &activations{q: newMatrix(n, dim), k: newMatrix(n, dim), v: newMatrix(n, dim), o: newMatrix(n, dim)}
	mulBack(d.o, dx, a.o, l.o)
	parallel(len(a.att), func(from, to int) {
		for i := from; i < to; i++ {
			p.attendBack(d, a, i)
		}
	})
	p.m.rope(d.q, p.positions, -1)
	p.m.rope(d.k, p.positions, -1)
	dh := newMatrix(n, dim)
	mulBack(dh, d.q, a.h, l.q)
	mulBack(dh, d.k, a.h, l.k)
	mulBack(dh, d.v, a.h, l.v)
	rmsBack(dx, dh, a.x, l.attnNorm, a.inv1)
}

// attendBack is the way back through attend: from d.o to d.q, d.k and d.v.
func (p *pass) attendBack(d, a *activations, i int) {
	s, h := i/headCount, i%headCount
	n, base, att := len(p.batch[s].tokens), p.start[s], a.att[i]
	dAtt := make([]float32, n)
	for t := range n {
		var sum float32
		out, row := d.o.head(base+t, h), att.row(t)[:t+1]
		for u, w := range row {
			axpy(d.v.head(base+u, h), out, w)
			dAtt[u] = dot(out, a.v.head(base+u, h))
			sum += dAtt[u] * w
		}
		for u, w := range row {
			ds := w * (dAtt[u] - sum) * attScale
			axpy(d.q.head(base+t, h), a.k.head(base+u, h), ds)
			axpy(d.k.head(base+u, h), a.q.head(base+t, h), ds)
		}
	}
}

// rmsBack adds to dx and to the gain's gradient what y = rms(x) passes back from dy.
func rmsBack(dx, dy, x matrix, gain *param, inv []float32) {
	for t := range x.rows {
		xr, dyr, dxr, r := x.row(t), dy.row(t), dx.row(t), inv[t]
		var s float32
		for i, v := range xr {
			gain.grad.v[i] += dyr[i] * v * r
			s += dyr[i] * gain.v[i] * v
		}
		s = s * r * r * r / float32(x.cols)
		for i, v := range xr {
			dxr[i] += dyr[i]*gain.v[i]*r - v*s
		}
	}
}
