//go:build race

package nvgpu_test

// raceStep thins out what takes long: the race detector makes elliptic curves several times slower.
const raceStep = 23
