package sim

// lru is a prefix cache: how many tokens of each key are kept, the least recently used leave first.
type lru struct {
	at         map[int32]int32
	nodes      []node
	head, tail int32 // most and least recently used; -1: none
	free       int32
	tokens     int
}

type node struct {
	key, tokens, prev, next int32
}

func newLRU() lru { return lru{at: map[int32]int32{}, head: -1, tail: -1, free: -1} }

// get is how many tokens of the key are kept.
func (l *lru) get(key int32) int32 {
	if i, ok := l.at[key]; ok {
		return l.nodes[i].tokens
	}
	return 0
}

// put keeps tokens of the key and makes room: gone is called with each key that left.
func (l *lru) put(key, tokens int32, room int, gone func(key int32)) {
	i, ok := l.at[key]
	if ok {
		l.tokens += int(tokens - l.nodes[i].tokens)
		l.nodes[i].tokens = tokens
		l.unlink(i)
	} else {
		if i = l.free; i >= 0 {
			l.free = l.nodes[i].next
		} else {
			i = int32(len(l.nodes))
			l.nodes = append(l.nodes, node{})
		}
		l.nodes[i] = node{key: key, tokens: tokens}
		l.at[key] = i
		l.tokens += int(tokens)
	}
	l.link(i)
	l.shrink(room, gone)
}

// shrink lets go of keys until no more than room tokens are kept.
func (l *lru) shrink(room int, gone func(key int32)) {
	for l.tokens > room && l.tail >= 0 {
		i := l.tail
		n := &l.nodes[i]
		l.tokens -= int(n.tokens)
		l.unlink(i)
		delete(l.at, n.key)
		n.next, l.free = l.free, i
		if gone != nil {
			gone(n.key)
		}
	}
}

func (l *lru) unlink(i int32) {
	n := &l.nodes[i]
	if n.prev >= 0 {
		l.nodes[n.prev].next = n.next
	} else {
		l.head = n.next
	}
	if n.next >= 0 {
		l.nodes[n.next].prev = n.prev
	} else {
		l.tail = n.prev
	}
}

func (l *lru) link(i int32) {
	n := &l.nodes[i]
	n.prev, n.next = -1, l.head
	if l.head >= 0 {
		l.nodes[l.head].prev = i
	} else {
		l.tail = i
	}
	l.head = i
}
