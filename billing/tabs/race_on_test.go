//go:build race

package tabs

const race = true
