//go:build !race

package nvgpu_test

const raceStep = 1
