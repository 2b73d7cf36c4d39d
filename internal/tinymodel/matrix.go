package tinymodel

import (
	"runtime"
	"sync"
)

// matrix is in row-major order.
type matrix struct {
	rows, cols int
	v          []float32
}

func newMatrix(rows, cols int) matrix { return matrix{rows, cols, make([]float32, rows*cols)} }

func (m matrix) row(i int) []float32 { return m.v[i*m.cols : i*m.cols+m.cols] }

// head is the part of row i that attention head h works on.
func (m matrix) head(i, h int) []float32 {
	from := i*m.cols + h*headDim
	return m.v[from : from+headDim]
}

func (m matrix) transposed() matrix {
	t := newMatrix(m.cols, m.rows)
	for i := range m.rows {
		for j, x := range m.row(i) {
			t.v[j*m.rows+i] = x
		}
	}
	return t
}

// parallel calls f on parts of [0, n) at once. The parts never change a sum's order, so the result doesn't depend
// on how many there are.
func parallel(n int, f func(from, to int)) {
	workers := runtime.GOMAXPROCS(0)
	if workers == 1 || n < 2 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		if from, to := n*w/workers, n*(w+1)/workers; from < to {
			wg.Go(func() { f(from, to) })
		}
	}
	wg.Wait()
}

// mulT is c = a·bᵀ.
func mulT(c, a, b matrix) {
	clear(c.v)
	addMulT(c, a, b)
}

// addMulT is c += a·bᵀ. It works on blocks of 4x2, which is what the registers hold: several times as fast as
// one dot product after the other.
func addMulT(c, a, b matrix) {
	n := b.rows
	parallel((a.rows+3)/4, func(from, to int) {
		i, end := from*4, min(to*4, a.rows)
		for ; i+4 <= end; i += 4 {
			rows := [4][]float32{a.row(i), a.row(i + 1), a.row(i + 2), a.row(i + 3)}
			j := 0
			for ; j+2 <= n; j += 2 {
				s := dot4x2(&rows, b.row(j), b.row(j+1))
				for r := range s {
					c.v[(i+r)*n+j] += s[r][0]
					c.v[(i+r)*n+j+1] += s[r][1]
				}
			}
			for ; j < n; j++ {
				for r := i; r < i+4; r++ {
					c.v[r*n+j] += dot(a.row(r), b.row(j))
				}
			}
		}
		for ; i < end; i++ {
			for j := range n {
				c.v[i*n+j] += dot(a.row(i), b.row(j))
			}
		}
	})
}

func dot(a, b []float32) (s float32) {
	b = b[:len(a)]
	for i, x := range a {
		s += x * b[i]
	}
	return s
}

// dot4x2 is the dot products of four rows with two.
func dot4x2(a *[4][]float32, b0, b1 []float32) [4][2]float32 {
	var s00, s01, s10, s11, s20, s21, s30, s31 float32
	a0 := a[0]
	k := len(a0)
	a1, a2, a3, b0, b1 := a[1][:k], a[2][:k], a[3][:k], b0[:k], b1[:k]
	for i, x0 := range a0 {
		y0, y1 := b0[i], b1[i]
		x1, x2, x3 := a1[i], a2[i], a3[i]
		s00 += x0 * y0
		s01 += x0 * y1
		s10 += x1 * y0
		s11 += x1 * y1
		s20 += x2 * y0
		s21 += x2 * y1
		s30 += x3 * y0
		s31 += x3 * y1
	}
	return [4][2]float32{{s00, s01}, {s10, s11}, {s20, s21}, {s30, s31}}
}

// axpy is y += a*x.
func axpy(y, x []float32, a float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += a * x[i]
	}
}
