package tinymodel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"slices"
	"testing"
)

func TestFileIsTheOneInUse(t *testing.T) {
	sum := sha256.Sum256([]byte(file))
	if got := hex.EncodeToString(sum[:]); got != SHA256 {
		t.Fatalf("tiny.gguf has sha256 %s, want %s: change the constant only together with a retrained file", got, SHA256)
	}
	got, err := io.ReadAll(Open())
	if err != nil || string(got) != file {
		t.Fatalf("Open: %d bytes, %v", len(got), err)
	}
}

// The generator still makes the model that is built in: tokenizer, shape, chat template. (Not the weights: they
// take minutes, and depend on the order of float operations.)
func TestGeneratorWritesTheFilesHeader(t *testing.T) {
	tiny := New(1)
	header := tiny.header()
	if len(file) < len(header) {
		t.Fatalf("header of %d bytes, file of %d", len(header), len(file))
	}
	for i := range header {
		if header[i] != file[i] {
			from := max(0, i-40)
			t.Fatalf("differs at byte %d:\n got ...%q\nwant ...%q", i, header[from:i+1], file[from:i+1])
		}
	}
	if got := tiny.GGUF(); len(got) != len(file) {
		t.Errorf("whole file: %d bytes, want %d", len(got), len(file))
	}
}

// A few steps on one short batch (the race detector makes each a second): the model learns it.
func TestTrainingLearns(t *testing.T) {
	tiny := New(1)
	batch := []sequence{tiny.corpus.sequence(tiny.tok, 48), tiny.corpus.sequence(tiny.tok, 48)}
	var losses []float64
	for range 12 {
		p := tiny.model.forward(batch)
		s := p.loss()
		p.backward()
		tiny.model.adam(learningRate)
		losses = append(losses, s.Loss)
		if s.Targets == 0 || s.Hits > s.Targets {
			t.Fatalf("step %+v", s)
		}
	}
	if first := losses[0]; math.Abs(first-math.Log(vocabMax)) > 1 { // an untrained model knows nothing
		t.Errorf("first loss %.2f, want about ln(%d) = %.2f", first, vocabMax, math.Log(vocabMax))
	}
	if last := losses[len(losses)-1]; last > losses[0]/2 {
		t.Errorf("loss did not fall: %.2f", losses)
	}
}

func TestTrainReportsAndRounds(t *testing.T) {
	tiny := New(1)
	tiny.batch = 1
	var steps []Step
	if err := tiny.Train(t.Context(), 3, func(s Step) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	for i, s := range steps {
		if s.Number != i+1 || s.Tokens <= s.Targets || i > 0 && s.Tokens <= steps[i-1].Tokens {
			t.Errorf("step %+v", s)
		}
	}
	if len(steps) != 3 {
		t.Errorf("%d steps", len(steps))
	}
	for _, p := range tiny.model.params {
		for _, v := range p.v {
			if p.rows > 1 && fromHalf(toHalf(v)) != v {
				t.Fatalf("%s: weight %v is not in half precision", p.name, v)
			}
		}
	}
}

func TestTrainStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	tiny := New(1)
	tiny.batch = 1
	err := tiny.Train(ctx, 1000, func(Step) { n++; cancel() })
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("%d steps, %v", n, err)
	}
}

// The gradient of the backward pass is the slope of the loss.
func TestGradientIsTheSlope(t *testing.T) {
	tiny := New(3)
	batch := []sequence{tiny.corpus.sequence(tiny.tok, 24), tiny.corpus.sequence(tiny.tok, 24)}
	m := tiny.model
	p := m.forward(batch)
	p.loss()
	p.backward()
	if want := float32(1 / math.Sqrt(float64(headDim))); attScale != want {
		t.Errorf("attScale %v, want %v", attScale, want)
	}
	first, last := m.layers[0], m.layers[1]
	for _, w := range []*param{m.embd, first.attnNorm, first.k, first.o, last.v, last.gate, last.down, m.norm} {
		i := 0 // the weight with the steepest slope: the least drowned in rounding
		for j, g := range w.grad.v {
			if math.Abs(float64(g)) > math.Abs(float64(w.grad.v[i])) {
				i = j
			}
		}
		// Far enough to stand out from rounding, near enough to be straight.
		h := float32(min(1e-2, 4e-3/math.Abs(float64(w.grad.v[i]))))
		old := w.v[i]
		w.v[i] = old + h
		up := m.forward(batch).loss().Loss
		w.v[i] = old - h
		down := m.forward(batch).loss().Loss
		w.v[i] = old
		slope, grad := (up-down)/float64(2*h), float64(w.grad.v[i])
		if math.Abs(slope-grad) > 0.03*math.Abs(grad)+1e-4 {
			t.Errorf("%s[%d]: slope %.6f, gradient %.6f", w.name, i, slope, grad)
		}
	}
}

func TestTokenizerGivesTextBack(t *testing.T) {
	tok := New(1).tok
	for _, text := range []string{
		"What is the capital of France?", "  two blanks\n\n\tand a tab  ", "it's 1234567 o'clock", "naïve 日本語 🦋", "",
		"<|im_start|>user\nHello<|im_end|>\n", "a <think>b</think>\r\n",
	} {
		if got := tok.decode(tok.encode(text)); got != text {
			t.Errorf("%q came back as %q", text, got)
		}
	}
	if got := tok.encode("<|im_end|>"); !slices.Equal(got, []int{tok.ids[endOfTurn]}) {
		t.Errorf("end of turn is %v", got)
	}
}

func TestPretokenize(t *testing.T) {
	for text, want := range map[string][]string{
		"I'll add 12345.":    {"I", "'ll", " add", " ", "123", "45", "."},
		"a  b":               {"a", " ", " b"},
		"x \n\n y":           {"x", " \n\n", " y"},
		"say: \"hi\"\nthere": {"say", ":", " \"", "hi", "\"\n", "there"},
		"end ":               {"end", " "},
	} {
		if got := pretokenize(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestHalf(t *testing.T) {
	for in, want := range map[float32]uint16{
		0: 0, 1: 0x3c00, -2: 0xc000, 65504: 0x7bff, 1e6: 0x7c00, 6e-8: 1, 1e-9: 0, 0.1: 0x2e66,
		1 + 1.0/2048: 0x3c00, 1 + 3.0/2048: 0x3c02, // ties go to even
	} {
		if got := toHalf(in); got != want {
			t.Errorf("toHalf(%v) = %#x, want %#x", in, got, want)
		}
	}
	for h := range uint16(0x7c00) {
		if got := toHalf(fromHalf(h)); got != h {
			t.Fatalf("%#x came back as %#x", h, got)
		}
		if got := toHalf(fromHalf(h | 0x8000)); got != h|0x8000 {
			t.Fatalf("-%#x came back as %#x", h, got)
		}
	}
}

func TestAnswerEnds(t *testing.T) {
	tiny := New(1)
	if got := tiny.Answer("Hello", 3); len(tiny.tok.encode(got)) > 3+2 { // bytes may split or join anew
		t.Errorf("answer of 3 tokens is %q", got)
	}
	if !bytes.HasPrefix(tiny.GGUF(), []byte("GGUF\x03\x00\x00\x00")) {
		t.Error("not a GGUF file of version 3")
	}
}
