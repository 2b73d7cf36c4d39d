package ton

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/xssnick/tonutils-go/ton"
)

// serversMax bounds how many liteservers are used: those of the config's first ones. The main network's has some 20.
const serversMax = 32

// masterShard is the only shard of the masterchain.
const masterShard = -1 << 63

// network is what is used of a global.config.json.
type network struct {
	Liteservers []struct {
		IP   int64 `json:"ip"`
		Port int   `json:"port"`
		ID   struct {
			Key string `json:"key"`
		} `json:"id"`
	} `json:"liteservers"`
	Validator struct {
		Zero blockID `json:"zero_state"`
		Init blockID `json:"init_block"`
	} `json:"validator"`
}

type blockID struct {
	Workchain int32  `json:"workchain"`
	Shard     int64  `json:"shard"`
	Seqno     uint32 `json:"seqno"`
	RootHash  []byte `json:"root_hash"`
	FileHash  []byte `json:"file_hash"`
}

func (b *blockID) ext() *ton.BlockIDExt {
	return &ton.BlockIDExt{Workchain: b.Workchain, Shard: b.Shard, SeqNo: b.Seqno, RootHash: b.RootHash, FileHash: b.FileHash}
}

// parseNetwork reads a global.config.json. It has much more in it than is used, so unknown fields are no error.
func parseNetwork(text []byte) (*network, error) {
	var n network
	if err := json.Unmarshal(text, &n); err != nil {
		return nil, fmt.Errorf("network config: %w", err)
	}
	if len(n.Liteservers) == 0 {
		return nil, errors.New("network config: it names no liteserver")
	}
	n.Liteservers = n.Liteservers[:min(len(n.Liteservers), serversMax)]
	for i, s := range n.Liteservers {
		if key, err := base64.StdEncoding.DecodeString(s.ID.Key); err != nil || len(key) != 32 {
			return nil, fmt.Errorf("network config: liteserver %d: the key is not 32 bytes in base64", i)
		}
		if s.Port < 1 || s.Port > 65535 {
			return nil, fmt.Errorf("network config: liteserver %d: port %d", i, s.Port)
		}
	}
	if !plausible(n.Validator.Init.ext()) || len(n.Validator.Zero.RootHash) != 32 {
		return nil, errors.New("network config: its init block or zero state is not a block of the masterchain")
	}
	return &n, nil
}

// plausible tells whether an ID has the form of a masterchain block's.
func plausible(b *ton.BlockIDExt) bool {
	return b != nil && b.Workchain == -1 && b.Shard == masterShard && len(b.RootHash) == 32 && len(b.FileHash) == 32 &&
		b.SeqNo <= 1<<31-1 // liteservers are asked for it as an int
}

func (n *network) server(i int) (addr, key string) {
	s := n.Liteservers[i]
	ip := net.IP(binary.BigEndian.AppendUint32(nil, uint32(s.IP)))
	return net.JoinHostPort(ip.String(), strconv.Itoa(s.Port)), s.ID.Key
}

// same tells whether two blocks are one.
func same(a, b *ton.BlockIDExt) bool {
	return a.Workchain == b.Workchain && a.Shard == b.Shard && a.SeqNo == b.SeqNo && bytes.Equal(a.RootHash, b.RootHash) &&
		bytes.Equal(a.FileHash, b.FileHash)
}
