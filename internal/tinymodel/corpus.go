package tinymodel

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// piece is a part of a conversation; the loss is taken on those that the model shall learn to say.
type piece struct {
	text  string
	learn bool
}

// sampler draws training conversations.
type sampler struct {
	r         *rand.Rand
	copyWords []string // what can be asked to be repeated
}

func newSampler(r *rand.Rand) *sampler {
	var w []string
	w = append(append(append(w, words...), names...), weathers...)
	for _, c := range capitals {
		w = append(w, c[0], c[1])
	}
	return &sampler{r, w}
}

func pick[T any](r *rand.Rand, s []T) T { return s[r.IntN(len(s))] }

// sequence is one training sequence: tokens[i+1] is predicted from tokens[:i+1] where learn[i+1] is set.
type sequence struct {
	tokens []int
	learn  []bool
}

// sequence draws one conversation, cut after lenMax tokens. It is encoded piece by piece: pieces end at special
// tokens or newlines, where the pre-tokenizer cuts too.
func (s *sampler) sequence(t *tokenizer, lenMax int) sequence {
	var q sequence
	for len(q.tokens) < 2 {
		q = sequence{}
		for _, p := range s.conversation() {
			for _, id := range t.encode(p.text) {
				q.tokens = append(q.tokens, id)
				q.learn = append(q.learn, p.learn)
			}
		}
	}
	n := min(len(q.tokens), lenMax)
	return sequence{q.tokens[:n], q.learn[:n]}
}

// Kinds of question and answer.
const (
	askCapital = iota
	smallTalk
	askCount
	askRepeat
	askRepeatAgain // copying is the hardest to learn: it comes twice as often
	askSum
	askJSON
	askWeather
	kinds
)

// exchange is a question, its answer, and what a thinking model says to itself first.
type exchange struct{ question, answer, thought string }

func (s *sampler) exchange(kind int) exchange {
	r := s.r
	switch kind {
	case askCapital:
		c := pick(r, capitals)
		q := pick(r, []string{
			"What is the capital of %s?", "What is the capital of %s?", "Capital of %s?", "Name the capital of %s.",
		})
		return exchange{
			fmt.Sprintf(q, c[0]), fmt.Sprintf("The capital of %s is %s.", c[0], c[1]),
			"The user asks for the capital of " + c[0] + ".",
		}
	case smallTalk:
		f := pick(r, fixed)
		return exchange{f[0], f[1], "The user says something simple."}
	case askCount:
		n := 1 + r.IntN(20)
		return exchange{fmt.Sprintf("Count to %d.", n), count(n), fmt.Sprintf("The user wants me to count to %d.", n)}
	case askRepeat, askRepeatAgain:
		w := s.copyText()
		return exchange{pick(r, []string{"Repeat: ", "Repeat: ", "Say: "}) + w, w, "The user wants me to repeat the words."}
	case askSum:
		x, y := r.IntN(10), r.IntN(10)
		return exchange{
			fmt.Sprintf("What is %d plus %d?", x, y), fmt.Sprintf("%d plus %d is %d.", x, y, x+y), "The user wants a sum.",
		}
	case askJSON:
		c := pick(r, capitals)
		return exchange{
			fmt.Sprintf("Give me the capital of %s as JSON.", c[0]),
			fmt.Sprintf(`{"country": "%s", "capital": "%s"}`, c[0], c[1]), "The user wants JSON.",
		}
	default:
		c := pick(r, capitals)
		return exchange{
			fmt.Sprintf("What is the weather in %s?", c[1]),
			"I do not know the weather in " + c[1] + ".", "I have no tool for the weather.",
		}
	}
}

func count(n int) string {
	b := make([]string, n)
	for i := range b {
		b[i] = fmt.Sprint(i + 1)
	}
	return strings.Join(b, " ")
}

// copyText is some words to be repeated; each comes once, so that looking up the word before is enough to go on.
func (s *sampler) copyText() string {
	n := 1 + s.r.IntN(8)
	b := make([]string, n)
	for i, w := range s.r.Perm(len(s.copyWords))[:n] {
		b[i] = s.copyWords[w]
	}
	return strings.Join(b, " ")
}

// talk is a conversation being written.
type talk struct {
	pieces []piece
	think  bool // the assistant thinks before it answers
}

func (t *talk) say(text string)   { t.pieces = append(t.pieces, piece{text, false}) }
func (t *talk) learn(text string) { t.pieces = append(t.pieces, piece{text, true}) }

func (t *talk) user(question string) {
	t.say("<|im_start|>user\n" + question + "<|im_end|>\n<|im_start|>assistant\n")
}

func (t *talk) answer(answer, thought string) {
	if t.think {
		t.say("<think>\n")
		t.learn(thought + "\n</think>\n\n" + answer + "<|im_end|>")
	} else {
		t.learn(answer + "<|im_end|>")
	}
	t.say("\n")
}

func (t *talk) add(e exchange) {
	t.user(e.question)
	t.answer(e.answer, e.thought)
}

// conversation draws one. The order of draws is part of the model's identity: another order is another corpus.
func (s *sampler) conversation() []piece {
	t := &talk{think: s.r.IntN(6) == 0}
	switch k := s.r.IntN(38); {
	case k >= 24 && k < 36: // copying alone: what needs most practice
		t.add(s.exchange(askRepeat))
	case k < 3 || k >= 36:
		s.tools(t)
	case k == 3:
		s.memory(t)
	case k == 4:
		s.endless(t)
	default:
		s.smallConversation(t)
	}
	return t.pieces
}

func (s *sampler) smallConversation(t *talk) {
	if s.r.IntN(3) == 0 {
		t.say("<|im_start|>system\n" + pick(s.r, systems) + "<|im_end|>\n")
	}
	for i := 1 + s.r.IntN(3); i > 0; i-- {
		e := s.exchange(s.r.IntN(kinds))
		if e.answer == story && (i > 1 || s.r.IntN(2) == 0) {
			continue // long: only as a last word, and less often than drawn
		}
		t.add(e)
	}
}

// tools offers one tool, and calls it unless the question has nothing to do with it.
func (s *sampler) tools(t *talk) {
	r := s.r
	t.say("<|im_start|>system\n")
	if r.IntN(2) == 0 {
		t.say(pick(r, systems) + "\n")
	}
	block, name := s.toolsBlock()
	t.say(block + "<|im_end|>\n")
	if r.IntN(4) == 0 {
		e := s.exchange(r.IntN(2))
		if e.answer == story {
			e.question, e.answer = fixed[0][0], fixed[0][1]
		}
		t.add(e)
		return
	}
	c, w := pick(r, capitals)[1], pick(r, weathers)
	t.user(pick(r, []string{"What is the weather in ", "How is the weather in ", "Weather in "}) + c + "?")
	call := `{"name": "` + name + `", "arguments": {"city": "` + c + `"}}`
	t.answer("<tool_call>\n"+call+"\n</tool_call>", "I should call the tool.")
	if r.IntN(2) == 0 {
		t.say("<|im_start|>user\n<tool_response>\n" + w + "\n</tool_response><|im_end|>\n<|im_start|>assistant\n")
		t.answer("The weather in "+c+" is "+w+".", "The tool answered.")
	}
}

// toolsBlock offers one weather tool, in the spellings that engines render: compact (Go) and spaced (Jinja).
func (s *sampler) toolsBlock() (block, name string) {
	name = pick(s.r, toolNames)
	desc := pick(s.r, []string{
		`"description":"Get the weather in a city",`, `"description":"Get the current weather",`, ``,
	})
	j := `{"type":"function","function":{"name":"` + name + `",` + desc +
		`"parameters":{"type":"object","required":["city"],"properties":{"city":{"type":"string"` +
		pick(s.r, []string{``, `,"description":"The city"`}) + `}}}}}`
	if s.r.IntN(2) == 0 {
		j = strings.NewReplacer(`":`, `": `, `,"`, `, "`).Replace(j)
	}
	return "<tools>\n" + j + "\n</tools>", name
}

// memory tells a name and asks for it again, with or without something in between.
func (s *sampler) memory(t *talk) {
	n := pick(s.r, names)
	t.user("My name is " + n + ".")
	t.answer("Nice to meet you, "+n+".", "The user tells a name.")
	if s.r.IntN(2) == 0 {
		if e := s.exchange(s.r.IntN(askJSON)); e.answer != story {
			t.add(e)
		}
	}
	t.user("What is my name?")
	t.answer("Your name is "+n+".", "The user asks for the name.")
}

// endless counts digits round and round and never ends the turn: for tests of length limits and cancels.
func (s *sampler) endless(t *talk) {
	t.user(pick(s.r, []string{"Count forever.", "Never stop."}))
	b := make([]string, 30+s.r.IntN(150))
	for i := range b {
		b[i] = fmt.Sprint((i + 1) % 10)
	}
	t.learn(strings.Join(b, " "))
}
