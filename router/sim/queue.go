package sim

// kind says what an event is.
type kind uint8

const (
	evSession  kind = iota // a session arrives
	evTurn                 // who: a session sends its next request
	evAgain                // who: a request that was refused is sent again
	evArrive               // who: an attempt reaches its worker
	evStep                 // who: an engine's steps are done
	evFirst                // who: an attempt's first token reaches its gateway
	evDone                 // who: an attempt's last token reaches its gateway
	evError                // who: an attempt's failure reaches its gateway
	evProgress             // who: an attempt's gateway counts tokens
	evPatience             // who: an attempt's gateway asks whether to wait on
	evCancel               // who: a gateway's cancel reaches an attempt's worker
	evTick                 // workers report their load, gateways tend their tables
	evScript               // who: an entry of the script
	evPrice                // who: a worker takes its old price again
)

// event is one thing that will happen. gen tells an event that was overtaken from one that counts.
type event struct {
	at   float64
	seq  uint64 // equal times: first come, first served
	kind kind
	gen  uint32
	who  int32
}

func (a *event) before(b *event) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

// queue is a heap of four children per node, flat, so that an event costs no allocation.
type queue struct {
	heap []event
	seq  uint64
}

func (q *queue) push(at float64, k kind, who int32, gen uint32) {
	q.seq++
	q.heap = append(q.heap, event{})
	e, i := event{at, q.seq, k, gen, who}, len(q.heap)-1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&q.heap[up]) {
			break
		}
		q.heap[i] = q.heap[up]
		i = up
	}
	q.heap[i] = e
}

func (q *queue) pop() event {
	top, last := q.heap[0], len(q.heap)-1
	e := q.heap[last]
	q.heap = q.heap[:last]
	i := 0
	for {
		first := 4*i + 1
		if first >= last {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, last); c++ {
			if q.heap[c].before(&q.heap[least]) {
				least = c
			}
		}
		if !q.heap[least].before(&e) {
			break
		}
		q.heap[i] = q.heap[least]
		i = least
	}
	if last > 0 {
		q.heap[i] = e
	}
	return top
}

// slab holds values at addresses that stay, in the order in which they came.
type slab[T any] struct {
	pages [][]T
	n     int32
}

const pageSize = 1 << 10

func (s *slab[T]) add() (int32, *T) {
	if int(s.n)%pageSize == 0 {
		s.pages = append(s.pages, make([]T, pageSize))
	}
	i := s.n
	s.n++
	return i, s.at(i)
}

func (s *slab[T]) at(i int32) *T { return &s.pages[i/pageSize][i%pageSize] }
