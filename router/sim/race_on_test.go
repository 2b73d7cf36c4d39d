//go:build race

package sim

// raced tells whether the race detector is on, which makes the simulator fifteen times slower and has nothing to find in a
// package of one goroutine.
const raced = true
