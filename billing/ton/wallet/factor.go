//go:build !race

package wallet

// sealFactor is the work factor of scrypt that keys are sealed with: 2^17 rounds, half a second and 128 MiB, for each guess at
// a passphrase.
const sealFactor = 17
