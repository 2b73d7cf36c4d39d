//go:build !race

package treasury

const raced = false
