//go:build !race

package billing

const usualKills = 50
