//go:build race

package wallet

// sealFactor is little in programs with the race detector, which are for tests only: it makes each round ten times as slow.
const sealFactor = 12
