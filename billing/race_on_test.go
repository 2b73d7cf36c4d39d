//go:build race

package billing

const usualKills = 12 // a process of the race detector starts slowly
