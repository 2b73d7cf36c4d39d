//go:build race

package treasury

// raced says that the race detector is on: it makes all of it six times slower, so the long tests do a part of it. They
// have one goroutine each; what runs at once is in TestTwoGateways and TestRun.
const raced = true
