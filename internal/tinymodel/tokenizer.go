package tinymodel

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Token types of GGUF.
const (
	typeNormal  = 1
	typeControl = 3 // never part of a text
	typeUser    = 4 // special, but shown
)

// Control tokens.
const (
	beginOfText = "<|endoftext|>"
	startOfTurn = "<|im_start|>"
	endOfTurn   = "<|im_end|>"
)

var (
	controlTokens = []string{beginOfText, startOfTurn, endOfTurn}
	userTokens    = []string{
		"<think>", "</think>", "<tools>", "</tools>",
		"<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
	}
)

// tokenizer is byte-level BPE in the manner of GPT-2, with the pre-tokenizer that GGUF calls "llama-bpe".
type tokenizer struct {
	tokens  []string // in the byte-level alphabet; specials verbatim
	types   []int32
	merges  []string // "a b", best first
	ids     map[string]int
	ranks   map[[2]string]int
	special []string
	symbol  [256]rune // byte -> character of the alphabet
	byteOf  map[rune]byte
}

func newTokenizer() *tokenizer {
	t := &tokenizer{ids: map[string]int{}, ranks: map[[2]string]int{}, byteOf: map[rune]byte{}}
	next := rune(256) // bytes without a printable character of their own take the ones from here on
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xA1 || b == 0xAD {
			r = next
			next++
		}
		t.symbol[b], t.byteOf[r] = r, byte(b)
	}
	for _, s := range controlTokens {
		t.add(s, typeControl)
	}
	for _, s := range userTokens {
		t.add(s, typeUser)
	}
	t.special = slices.Concat(controlTokens, userTokens)
	for b := range 256 {
		t.add(string(t.symbol[b]), typeNormal)
	}
	return t
}

func (t *tokenizer) add(s string, typ int32) {
	t.ids[s] = len(t.tokens)
	t.tokens = append(t.tokens, s)
	t.types = append(t.types, typ)
}

// word is a pre-token of the corpus, in the symbols it has so far, and how often it comes.
type word struct {
	symbols []string
	count   int
}

// trainTokenizer merges the most frequent pair of symbols until the vocabulary is full.
func trainTokenizer(corpus map[string]int) *tokenizer {
	t := newTokenizer()
	counts := map[string]int{}
	for text, n := range corpus {
		for _, s := range t.split(text) {
			if s.special {
				continue
			}
			for _, w := range pretokenize(s.text) {
				counts[w] += n
			}
		}
	}
	var all []word
	for _, w := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, word{t.symbols(w), counts[w]})
	}
	for len(t.tokens) < vocabMax {
		best, ok := bestPair(all)
		if !ok {
			break
		}
		t.ranks[best] = len(t.merges)
		t.merges = append(t.merges, best[0]+" "+best[1])
		if _, ok := t.ids[best[0]+best[1]]; !ok {
			t.add(best[0]+best[1], typeNormal)
		}
		for i := range all {
			all[i].symbols = mergePair(all[i].symbols, best)
		}
	}
	return t
}

// bestPair is the most frequent pair that comes more than once; of equals the first by spelling.
func bestPair(all []word) (best [2]string, ok bool) {
	pairs := map[[2]string]int{}
	for _, w := range all {
		for i := 0; i+1 < len(w.symbols); i++ {
			pairs[[2]string{w.symbols[i], w.symbols[i+1]}] += w.count
		}
	}
	most := 1
	for p, n := range pairs {
		if n > most || n == most && (p[0]+" "+p[1]) < (best[0]+" "+best[1]) {
			best, most = p, n
		}
	}
	return best, most >= 2
}

func mergePair(symbols []string, pair [2]string) []string {
	out := symbols[:0:0]
	for i := 0; i < len(symbols); i++ {
		if i+1 < len(symbols) && symbols[i] == pair[0] && symbols[i+1] == pair[1] {
			out = append(out, pair[0]+pair[1])
			i++
		} else {
			out = append(out, symbols[i])
		}
	}
	return out
}

func (t *tokenizer) symbols(word string) []string {
	out := make([]string, len(word))
	for i := range len(word) {
		out[i] = string(t.symbol[word[i]])
	}
	return out
}

type segment struct {
	text    string
	special bool
}

// split cuts text at special tokens; where two start together the longer one counts.
func (t *tokenizer) split(text string) []segment {
	var out []segment
	for text != "" {
		at, which := -1, ""
		for _, s := range t.special {
			if i := strings.Index(text, s); i >= 0 && (at < 0 || i < at || i == at && len(s) > len(which)) {
				at, which = i, s
			}
		}
		if at < 0 {
			return append(out, segment{text, false})
		}
		if at > 0 {
			out = append(out, segment{text[:at], false})
		}
		out = append(out, segment{which, true})
		text = text[at+len(which):]
	}
	return out
}

func (t *tokenizer) encode(text string) []int {
	var ids []int
	for _, s := range t.split(text) {
		if s.special {
			ids = append(ids, t.ids[s.text])
			continue
		}
		for _, w := range pretokenize(s.text) {
			for _, sym := range t.merge(t.symbols(w)) {
				ids = append(ids, t.ids[sym])
			}
		}
	}
	return ids
}

// merge joins pairs in the order in which training found them.
func (t *tokenizer) merge(symbols []string) []string {
	for len(symbols) > 1 {
		at, rank := -1, 1<<30
		for i := 0; i+1 < len(symbols); i++ {
			if r, ok := t.ranks[[2]string{symbols[i], symbols[i+1]}]; ok && r < rank {
				at, rank = i, r
			}
		}
		if at < 0 {
			break
		}
		symbols = slices.Replace(symbols, at, at+2, symbols[at]+symbols[at+1])
	}
	return symbols
}

func (t *tokenizer) decode(ids []int) string {
	var b []byte
	for _, id := range ids {
		if t.types[id] != typeNormal {
			b = append(b, t.tokens[id]...)
			continue
		}
		for s := t.tokens[id]; s != ""; {
			r, n := utf8.DecodeRuneInString(s)
			b = append(b, t.byteOf[r])
			s = s[n:]
		}
	}
	return string(b)
}
