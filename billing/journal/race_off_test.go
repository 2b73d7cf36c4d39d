//go:build !race

package journal

const (
	usualKills = 8
	readings   = 12
)
