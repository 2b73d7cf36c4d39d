package devnet

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/big"

	"github.com/xssnick/tonutils-go/adnl/keys"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Parameters of the chain that are ours.
const (
	paramGlobalID   = 19
	paramValidators = 34
)

// validatorKey is the one validator's. It's no secret: a network of ours is worth nothing.
func validatorKey(seed int64) ed25519.PrivateKey {
	s := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte("devnet validator"), uint64(seed)))
	return ed25519.NewKeyFromSeed(s[:])
}

func (n *Network) validator() ed25519.PublicKey { return ed25519.PublicKey(n.valKey[32:]) }

// prepareConfig reads the chain's parameters, makes them ours, and takes from them what blocks need.
func (n *Network) prepareConfig() error {
	root, err := cell.FromBOC(n.opts.ConfigBOC)
	if err != nil {
		return fmt.Errorf("reading the chain's parameters: %w", err)
	}
	if n.cfgRoot, err = n.patchConfig(root); err != nil {
		return err
	}
	if n.cfg, err = tvm.PrepareBlockchainConfig(n.cfgRoot); err != nil {
		return fmt.Errorf("reading the chain's parameters: %w", err)
	}
	c := tlb.BlockchainConfig{Root: n.cfgRoot}
	version, err := c.GetGlobalVersion()
	if err != nil {
		return fmt.Errorf("reading the chain's version: %w", err)
	}
	n.version = tlb.GlobalVersion{Version: version.Version, Capabilities: version.Capabilities}
	if n.cfgAddr, err = c.GetConfigAddress(); err != nil || len(n.cfgAddr) != 32 {
		n.cfgAddr = make([]byte, 32)
	}
	n.valHash, err = n.validatorSetHash()
	return err
}

// patchConfig sets the network's number and the validators: one, whose key is here, so that signatures are real.
func (n *Network) patchConfig(root *cell.Cell) (*cell.Cell, error) {
	d := root.AsDict(32)
	set := func(id int64, v *cell.Cell) error {
		return d.SetIntKey(big.NewInt(id), cell.BeginCell().MustStoreRef(v).EndCell())
	}
	descr := cell.BeginCell().MustStoreUInt(0x73, 8).MustStoreUInt(0x8e81278a, 32).MustStoreSlice(n.validator(), 256).
		MustStoreUInt(1, 64).MustStoreSlice(make([]byte, 32), 256).EndCell()
	vals := cell.NewDict(16)
	if err := vals.SetIntKey(big.NewInt(0), descr); err != nil {
		return nil, err
	}
	vset := cell.BeginCell().MustStoreUInt(0x12, 8).MustStoreUInt(0, 32).MustStoreUInt(0xffffffff, 32).
		MustStoreUInt(1, 16).MustStoreUInt(1, 16).MustStoreUInt(1, 64).MustStoreDict(vals).EndCell()
	if err := set(paramValidators, vset); err != nil {
		return nil, err
	}
	if err := set(paramGlobalID, cell.BeginCell().MustStoreInt(int64(GlobalID), 32).EndCell()); err != nil {
		return nil, err
	}
	return d.AsCell(), nil
}

// validatorSetHash is the short hash that blocks and proofs name the validators by.
func (n *Network) validatorSetHash() (uint32, error) {
	b, err := tl.Serialize(ton.ValidatorSetHashable{Validators: []ton.ValidatorItemHashable{{
		Key: n.validator(), Weight: 1, Addr: make([]byte, 32),
	}}}, true)
	if err != nil {
		return 0, err
	}
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)), nil
}

func (n *Network) validatorID() ([]byte, error) {
	return tl.Hash(keys.PublicKeyED25519{Key: n.validator()})
}

// sign is the validator's signature of a block.
func (n *Network) sign(id *ton.BlockIDExt) ([]byte, error) {
	b, err := tl.Serialize(ton.BlockID{RootHash: id.RootHash, FileHash: id.FileHash}, true)
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(n.valKey, b), nil
}
