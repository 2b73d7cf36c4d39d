// Package ollama builds and runs a real Ollama with the tiny model, for development and for tests.
//
// Ollama comes from its Go module, pinned by engine.mod and engine.sum: a module of its own, so that the project's
// go.mod stays free of a server's dependencies. It is the last version that Go alone can build.
package ollama

// Version is the Ollama that Build makes.
const Version = "0.17.4"

// Models are the names of the models that Start creates: the same weights, the second one thinks before it answers
// when asked to.
const (
	Tiny      = "tiny"
	TinyThink = "tiny-think"
)
