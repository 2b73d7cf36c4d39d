//go:build race

package journal

const (
	usualKills = 4 // a process of the race detector starts slowly
	readings   = 4 // and it reads slowly
)
