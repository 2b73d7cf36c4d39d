package gateway

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Buffers come in size classes of powers of two, from 1 KiB to 1 MiB; larger ones are not pooled.
const (
	classMin = 10 // 1 KiB: most requests of small chats
	classMax = 20 // 1 MiB
)

// memory hands out buffers and bounds what all of them take together.
type memory struct {
	limit int64
	used  atomic.Int64
	pools [classMax - classMin + 1]sync.Pool // of *[]byte
}

// take counts n bytes more against the limit; false if there is no room.
func (m *memory) take(n int) bool {
	if m.used.Add(int64(n)) > m.limit {
		m.used.Add(-int64(n))
		return false
	}
	return true
}

func (m *memory) give(n int) { m.used.Add(-int64(n)) }

// get is an empty buffer with room for n bytes; put brings it back. Neither counts against the limit.
func (m *memory) get(n int) *[]byte {
	class := max(bits.Len(uint(max(n, 1)-1)), classMin)
	if class > classMax {
		b := make([]byte, 0, n)
		return &b
	}
	if b, ok := m.pools[class-classMin].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 1<<class)
	return &b
}

// put takes a buffer back. What was grown on the way goes to the class that it fills.
func (m *memory) put(b *[]byte) {
	class := bits.Len(uint(cap(*b))) - 1
	if class < classMin || class > classMax {
		return
	}
	*b = (*b)[:0]
	m.pools[class-classMin].Put(b)
}
