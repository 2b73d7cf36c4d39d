// Package contracts is the compiled code of our smart contracts: Tolk sources beside what they compile to.
package contracts

import (
	_ "embed"
	"encoding/hex"
	"fmt"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Code hashes in hex: what a contract on chain is recognized by. A change of one is a change of the contract: what was
// deployed before keeps the old code for ever, at the old address.
const (
	TabHash      = "4b27027ebce52c149787c0b0cdbbb84ed19ffb196420cfe816f9574df1cbff25"
	RegistryHash = "cdb9637f03002f7da889b67e0e9fbc127acf26bddef31b329b9a13440e0d21a3"
)

//go:embed tab.boc
var tab []byte

//go:embed registry.boc
var registry []byte

// Tab returns the code of the tab, whose hash is TabHash.
func Tab() (*cell.Cell, error) { return parse("tab", tab, TabHash) }

// Registry returns the code of the registry, whose hash is RegistryHash.
func Registry() (*cell.Cell, error) { return parse("registry", registry, RegistryHash) }

// parse reads a BoC and refuses one that isn't what the constant says, so that no build can mix the two.
func parse(name string, boc []byte, hash string) (*cell.Cell, error) {
	code, err := cell.FromBOC(boc)
	if err != nil {
		return nil, fmt.Errorf("reading the code of the contract %s: %w", name, err)
	}
	if got := hex.EncodeToString(code.Hash()); got != hash {
		return nil, fmt.Errorf("the code of the contract %s has the hash %s, want %s", name, got, hash)
	}
	return code, nil
}
