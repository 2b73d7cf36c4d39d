package ton

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/durable"
	"cocoon/internal/strictjson"

	"github.com/xssnick/tonutils-go/ton"
)

// Files in the client's folder.
const (
	headFile = "head.json"
	lockFile = "lock"
)

// kept is the form of the kept block.
type kept struct {
	Network  string `json:"network"` // root hash of its zero state, in hex
	Seqno    uint32 `json:"seqno"`
	Time     int64  `json:"time"` // seconds since 1970
	Key      uint32 `json:"key_block"`
	RootHash string `json:"root_hash"`
	FileHash string `json:"file_hash"`
}

// keeper keeps the newest proven block in a folder. A nil keeper keeps nothing.
type keeper struct {
	path    string
	network string
	lock    *os.File
}

// openKeeper gives the block to trust: the newer one of the network's and the kept one. A kept block that is damaged, or of
// another network, is an error and never passed over: trust would go back.
func openKeeper(dir string, n *network) (*keeper, Head, error) {
	init := n.Validator.Init.ext()
	head := Head{Seqno: init.SeqNo, id: init}
	if dir == "" {
		return nil, head, nil
	}
	if err := makeDir(dir); err != nil {
		return nil, Head{}, err
	}
	lock, err := durable.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, Head{}, err
	}
	k := &keeper{path: filepath.Join(dir, headFile), network: hex.EncodeToString(n.Validator.Zero.RootHash), lock: lock}
	old, err := k.load()
	if err != nil {
		return nil, Head{}, errors.Join(fmt.Errorf("last proven block: %w", err), k.close())
	}
	if old.id != nil && old.Seqno >= head.Seqno {
		if old.Seqno == head.Seqno && !same(old.id, head.id) {
			return nil, Head{}, errors.Join(errors.New("last proven block: the network's config has another one of its number"),
				k.close())
		}
		head = old
	}
	return k, head, nil
}

func (k *keeper) close() error {
	if k == nil {
		return nil
	}
	if err := k.lock.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// load reads the kept block; there may be none.
func (k *keeper) load() (Head, error) {
	text, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Head{}, nil
	}
	if err != nil {
		return Head{}, err
	}
	var v kept
	if err := strictjson.Decode(text, &v); err != nil {
		return Head{}, fmt.Errorf("%s: %w", headFile, err)
	}
	if v.Network != k.network {
		return Head{}, fmt.Errorf("%s: it is of another network", headFile)
	}
	root, err1 := hex.DecodeString(v.RootHash)
	file, err2 := hex.DecodeString(v.FileHash)
	id := &ton.BlockIDExt{Workchain: -1, Shard: masterShard, SeqNo: v.Seqno, RootHash: root, FileHash: file}
	if err1 != nil || err2 != nil || !plausible(id) || v.Time <= 0 || v.Key > v.Seqno {
		return Head{}, fmt.Errorf("%s: it is damaged", headFile)
	}
	return Head{Seqno: v.Seqno, Time: time.Unix(v.Time, 0).UTC(), id: id, key: v.Key}, nil
}

// save keeps a block, durably.
func (k *keeper) save(h Head) error {
	if k == nil {
		return nil
	}
	text, err := json.Marshal(kept{
		k.network, h.Seqno, h.Time.Unix(), h.key, hex.EncodeToString(h.id.RootHash), hex.EncodeToString(h.id.FileHash),
	})
	if err == nil {
		err = durable.Replace(k.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keeping the proven block: %w", err)
	}
	return nil
}
