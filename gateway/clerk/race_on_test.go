//go:build race

package clerk

const raced = true
