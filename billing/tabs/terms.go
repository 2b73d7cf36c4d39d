package tabs

import (
	"crypto/sha256"
	"encoding/binary"
)

// saltOf tells the tabs of one owner apart: by whom they are for, and by the gateway or network.
func saltOf(name string, k key) uint64 {
	sum := sha256.Sum256([]byte("cocoon/tabs/salt/v1\x00" + name + "\x00" + k.kind + "\x00" + k.id))
	return binary.BigEndian.Uint64(sum[:])
}
