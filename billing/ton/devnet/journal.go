package devnet

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"cocoon/internal/durable"
	"cocoon/internal/recordfile"
	"cocoon/internal/strictjson"
)

// ErrOtherChain marks a folder whose chain can't be continued: it was made with other options, or by a version of the
// virtual machine that comes to other results.
var ErrOtherChain = errors.New("another chain")

// The journal holds what blocks are made of, not what comes of it: New makes them again. Each record begins with its
// kind. The messages of a block come before it, in the order in which they came; nobody was told of what has no block
// after it.
const (
	chainName = "chain" // file in Options.Dir
	lockName  = "lock"  // likewise
	magic     = "cocoon devnet chain 1\n"
	hashSize  = 8 // of a block's hash, to tell that it comes out the same

	kindHeader   = 'h' // then JSON: header
	kindInternal = 'i' // then the BoC of a message from nowhere
	kindExternal = 'x' // then the BoC of an external message
	kindBlock    = 'b' // then seconds since the last block, 8 bytes of the masterchain block's hash, [the clock's new skew]
)

// header is what a chain begins with.
type header struct {
	Genesis   uint32 `json:"genesis"` // seconds since 1970
	Secret    []byte `json:"secret"`  // 32 bytes
	Seed      int64  `json:"seed"`
	MaxTx     int    `json:"max_tx"`
	NextBlock bool   `json:"next_block_delivery"`
	Params    []byte `json:"params"` // the hash of the chain's parameters
}

func (n *Network) newHeader() (header, error) {
	secret := make([]byte, 32)
	_, err := rand.Read(secret)
	return header{
		Genesis: n.unix(), Secret: secret, Seed: n.opts.Seed, MaxTx: n.opts.MaxTxPerBlock,
		NextBlock: n.opts.NextBlockDelivery, Params: n.cfgRoot.Hash(),
	}, err
}

// fits tells what keeps these options from continuing that chain.
func (n *Network) fits(h header) error {
	switch {
	case !bytes.Equal(h.Params, n.cfgRoot.Hash()):
		return fmt.Errorf("%w: its parameters are others", ErrOtherChain)
	case h.Seed != n.opts.Seed || h.MaxTx != n.opts.MaxTxPerBlock || h.NextBlock != n.opts.NextBlockDelivery:
		return fmt.Errorf("%w: it was made with Seed %d, MaxTxPerBlock %d, NextBlockDelivery %t",
			ErrOtherChain, h.Seed, h.MaxTx, h.NextBlock)
	case len(h.Secret) != 32:
		return fmt.Errorf("%w: its header is damaged", ErrOtherChain)
	}
	return nil
}

// journal is the file that keeps a chain.
type journal struct {
	dir  string
	file *recordfile.File
	lock *os.File
	next [][]byte // what came since the last block
	skew int64    // of the last block
}

// openJournal continues the chain in Options.Dir, or begins one there.
func (n *Network) openJournal() (err error) {
	dir := n.opts.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the chain's folder: %w", err)
	}
	j := &journal{dir: dir}
	if j.lock, err = durable.Lock(filepath.Join(dir, lockName)); err != nil {
		return err
	}
	j.file, err = recordfile.Open(filepath.Join(dir, chainName), recordfile.Options{
		Magic: magic, Each: func(_ int64, record []byte) error { return n.replay(j, record) },
	})
	if err != nil {
		return errors.Join(err, j.lock.Close())
	}
	if n.mc.head == nil {
		err = n.beginJournal(j)
	}
	if err != nil {
		j.close(n.log)
		return err
	}
	n.skew.Store(j.skew)
	n.journal = j
	return nil
}

func (n *Network) beginJournal(j *journal) error {
	h, err := n.newHeader()
	if err != nil {
		return err
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err := j.file.Append(append([]byte{kindHeader}, text...)); err != nil {
		return err
	}
	return n.begin(h)
}

// replay does again what a record says.
func (n *Network) replay(j *journal, record []byte) error {
	kind, rest := record[0], record[1:] // records are never empty
	if (kind == kindHeader) != (n.mc.head == nil) {
		return fmt.Errorf("%w: a record of kind %q out of place", recordfile.ErrDamaged, kind)
	}
	switch kind {
	case kindHeader:
		var h header
		if err := strictjson.Decode(rest, &h); err != nil {
			return fmt.Errorf("%w: the header: %w", recordfile.ErrDamaged, err)
		}
		if err := n.fits(h); err != nil {
			return err
		}
		return n.begin(h)
	case kindInternal:
		n.minted++
		return n.enqueue(bytes.Clone(rest))
	case kindExternal:
		m, err := parseExternal(bytes.Clone(rest))
		if err != nil {
			return err
		}
		n.pool = append(n.pool, m)
		return nil
	case kindBlock:
		return n.replayBlock(j, rest)
	}
	return fmt.Errorf("%w: a record of kind %q", recordfile.ErrFormat, kind)
}

func (n *Network) replayBlock(j *journal, rest []byte) error {
	delta, k := binary.Uvarint(rest)
	if k <= 0 || delta > 1<<32 || len(rest) < k+hashSize {
		return fmt.Errorf("%w: a block", recordfile.ErrDamaged)
	}
	hash, rest := rest[k:k+hashSize], rest[k+hashSize:]
	if len(rest) > 0 {
		if j.skew, k = binary.Varint(rest); k != len(rest) {
			return fmt.Errorf("%w: a block's skew", recordfile.ErrDamaged)
		}
	}
	if err := n.mineAt(n.mc.head.utime + uint32(delta)); err != nil {
		return err
	}
	if !bytes.HasPrefix(n.mc.head.id.RootHash, hash) {
		return fmt.Errorf("%w: block %d came out differently", ErrOtherChain, n.mc.head.id.SeqNo)
	}
	n.publish()
	return nil
}

// note keeps a message for the next block's records.
func (n *Network) note(kind byte, boc []byte) {
	n.pending += len(boc)
	if n.journal != nil {
		n.journal.next = append(n.journal.next, append([]byte{kind}, boc...))
	}
}

// block writes a block and its messages; when it returns, they are on disk.
func (j *journal) block(delta uint32, skew int64, hash []byte) error {
	record := binary.AppendUvarint([]byte{kindBlock}, uint64(delta))
	record = append(record, hash[:hashSize]...)
	if skew != j.skew {
		record = binary.AppendVarint(record, skew)
	}
	if _, err := j.file.Append(append(j.next, record)...); err != nil {
		return err
	}
	j.next, j.skew = nil, skew
	return nil
}

func (j *journal) close(log *slog.Logger) {
	if err := errors.Join(j.file.Close(), j.lock.Close()); err != nil {
		log.Warn("closing the chain", "err", err)
	}
}
