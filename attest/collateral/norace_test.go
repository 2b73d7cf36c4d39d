//go:build !race

package collateral_test

const raceEnabled = false
