//go:build !race

package journal

const usualKills = 15
