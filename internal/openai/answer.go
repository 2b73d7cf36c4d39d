package openai

import "fmt"

// Answer is what a relay reads of a whole (not streamed) answer.
type Answer struct {
	// Usage is the token counts if HasUsage.
	Usage Usage
	// HasUsage tells of a top-level usage object; null is none.
	HasUsage bool
	// Finishes counts the choices with a finish_reason.
	Finishes int
	// Finish is why the last of them ended, as Chunk has it.
	Finish string
	// Error tells of a top-level error that is not null.
	Error bool
	usage span // of the usage object
}

// AppendCost is what Chunk's is.
func (a *Answer) AppendCost(b, body []byte, nanoton int64) []byte {
	return a.usage.appendCost(b, body, nanoton)
}

// ReadAnswer reads the body of an answer. It fails for what ReadChunk fails for.
func ReadAnswer(body []byte) (Answer, error) {
	s := scanner{data: body}
	var c Chunk
	if !c.read(&s) {
		return Answer{}, fmt.Errorf("reading answer: %s at byte %d", s.why, s.pos)
	}
	return Answer{Usage: c.Usage, HasUsage: c.HasUsage, Finishes: c.Finishes, Finish: c.Finish, Error: c.Error, usage: c.usage}, nil
}
