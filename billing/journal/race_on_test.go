//go:build race

package journal

const usualKills = 6 // a process of the race detector starts slowly
