package device

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"cocoon/attest"
	"cocoon/attest/snp"
)

// Limits on the host's certificate table.
const (
	tableMax   = 64 << 10 // bytes: the kernel takes 16 KiB
	entriesMax = 16       // there are six kinds
	entrySize  = 24       // GUID, offset and length, both little endian
)

// What an entry of the table is, by the first bytes of its GUID: in the order of its text (AMD 56421, GHCB
// specification, MSG_REPORT_REQ; the revocation lists are an addition of AMD's host tools).
const (
	guidVCEK = "63da758de6644564adc5f4b93be8accd"
	guidVLEK = "a8074bc2a25a483eaae639c045a0b8a1"
	guidASK  = "4ab7b379bbac4fe4a02f05aef327c782"
	guidARK  = "c0b406a4a803495297433fb6014cd0ae"
	guidCRL  = "92f81bc358114d3d97ffd19f88dc67ea"
	guidEnd  = "00000000000000000000000000000000"
)

// hostItems are the endorsements in the host's table. They are a convenience for verifiers, who may have them from AMD:
// a table that makes no sense is reported and left out.
func hostItems(table []byte, log *slog.Logger) []attest.Item {
	items, err := parseTable(table)
	if err != nil {
		log.Warn("the host's certificates can't be used", "error", clip(err.Error()))
		return nil
	}
	return items
}

// parseTable reads a certificate table: entries up to one of zeros, then what they point to. What it doesn't know is
// ignored, all else must be right. No bytes, or an empty table, are no items.
func parseTable(table []byte) ([]attest.Item, error) {
	entries, err := splitTable(table)
	if err != nil {
		return nil, err
	}
	var items []attest.Item
	var line snp.Line
	for _, guid := range []string{guidVCEK, guidVLEK} {
		blob, ok := entries[guid]
		if !ok {
			continue
		}
		der, err := toDER(blob, "CERTIFICATE")
		if err != nil {
			return nil, fmt.Errorf("endorsement key: %w", err)
		}
		key, err := snp.ParseEndorsementKey(der)
		if err != nil {
			return nil, fmt.Errorf("endorsement key: %w", err)
		}
		line = key.Line
		items = append(items, attest.Item{Kind: attest.SNPKey, Data: der})
	}
	chain, err := chainItem(entries, line)
	if err != nil {
		return nil, err
	}
	if chain != nil {
		items = append(items, *chain)
	}
	return items, nil
}

// splitTable returns the entries by GUID, in hex.
func splitTable(table []byte) (map[string][]byte, error) {
	if len(table) > tableMax {
		return nil, fmt.Errorf("certificate table of %d bytes, at most %d", len(table), tableMax)
	}
	if len(table) == 0 {
		return nil, nil
	}
	type span struct{ offset, length uint64 }
	spans := map[string]span{}
	head := table
	for {
		if len(head) < entrySize {
			return nil, errors.New("certificate table without end")
		}
		guid := hex.EncodeToString(head[:16])
		s := span{uint64(binary.LittleEndian.Uint32(head[16:])), uint64(binary.LittleEndian.Uint32(head[20:]))}
		head = head[entrySize:]
		if guid == guidEnd {
			if s != (span{}) {
				return nil, errors.New("certificate table: an entry without a GUID")
			}
			break
		}
		if _, twice := spans[guid]; twice || len(spans) == entriesMax {
			return nil, errors.New("certificate table: an entry twice, or too many")
		}
		spans[guid] = s
	}
	start, end := uint64(len(table)-len(head)), uint64(len(table))
	entries := map[string][]byte{}
	for guid, s := range spans {
		if s.length == 0 || s.offset < start || s.offset+s.length > end {
			return nil, fmt.Errorf("certificate table: an entry of %d bytes at %d, not within %d to %d",
				s.length, s.offset, start, end)
		}
		entries[guid] = table[s.offset : s.offset+s.length]
	}
	return entries, nil
}

// chainItem is what the keys hang on, if root and intermediate are there. One GUID serves the intermediates of both
// kinds of key; its name tells which it is.
func chainItem(entries map[string][]byte, line snp.Line) (*attest.Item, error) {
	if line == "" || entries[guidARK] == nil || entries[guidASK] == nil {
		return nil, nil
	}
	ark, err := toDER(entries[guidARK], "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("ARK: %w", err)
	}
	ask, err := toDER(entries[guidASK], "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("ASK: %w", err)
	}
	cert, err := x509.ParseCertificate(ask)
	if err != nil {
		return nil, fmt.Errorf("ASK: %w", err)
	}
	chain := attest.SNPChainItem{Line: line, ARK: ark}
	if strings.Contains(cert.Subject.CommonName, "VLEK") {
		chain.ASVK = ask
	} else {
		chain.ASK = ask
	}
	if crl := entries[guidCRL]; crl != nil {
		der, err := toDER(crl, "X509 CRL")
		if err != nil {
			return nil, fmt.Errorf("revocation list: %w", err)
		}
		chain.CRLs = [][]byte{der}
	}
	text, err := json.Marshal(chain)
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	return &attest.Item{Kind: attest.SNPChain, Data: text}, nil
}

// toDER takes DER, or PEM of one block: hosts have been given both.
func toDER(b []byte, kind string) ([]byte, error) {
	if !bytes.HasPrefix(b, []byte("-----BEGIN")) {
		return b, nil
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(bytes.Trim(rest, " \r\n\x00")) != 0 {
		return nil, fmt.Errorf("want one PEM block: %s", kind)
	}
	return block.Bytes, nil
}
