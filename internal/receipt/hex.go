package receipt

import "encoding/binary"

// Hex is most of a receipt's text, so it is read and written eight digits at a time: they are the bytes of one number.

const (
	eachByte  = 0x0101010101010101
	lowNibble = 0x0f * eachByte
)

// digits writes eight values of 4 bits, a byte each, as lower-case hex digits.
func digits(values uint64) uint64 {
	letters := (values + 6*eachByte) >> 4 & eachByte // 1 where the value is 10 or more
	return values + '0'*eachByte + letters*('a'-'0'-10)
}

// values reads eight hex digits. Of what is no lower-case digit it gives something that digits would write otherwise.
func values(digits uint64) uint64 {
	letters := digits >> 6 & eachByte // letters have bit 0x40
	return (digits&lowNibble + letters*9) & lowNibble
}

// isHex tells whether text, whose length is a multiple of 8, is lower-case hex digits.
func isHex(text string) bool {
	strange := uint64(0)
	for ; len(text) >= 8; text = text[8:] {
		b := load(text)
		strange |= digits(values(b)) ^ b
	}
	return strange == 0
}

// parse reads the lower-case hex digits that text begins with, which is as long as they are or longer; false if it has others.
func (d *Digest) parse(text []byte) bool { return readHex(d[:], text) }

// readHex reads a multiple of 4 bytes from the digits that text begins with, as parse does.
func readHex(into, text []byte) bool {
	strange := uint64(0)
	for ; len(into) >= 4; into, text = into[4:], text[8:] {
		b := binary.LittleEndian.Uint64(text)
		v := values(b)
		strange |= digits(v) ^ b
		v = (v<<4 | v>>8) & 0x00ff00ff00ff00ff // pairs of digits
		v = (v | v>>8) & 0x0000ffff0000ffff
		binary.LittleEndian.PutUint32(into, uint32(v|v>>16))
	}
	return strange == 0
}

// appendHex appends a multiple of 4 bytes in hex.
func appendHex(b, from []byte) []byte {
	for ; len(from) >= 4; from = from[4:] {
		v := uint64(binary.LittleEndian.Uint32(from))
		v = (v | v<<16) & 0x0000ffff0000ffff
		v = (v | v<<8) & 0x00ff00ff00ff00ff
		b = binary.LittleEndian.AppendUint64(b, digits((v>>4|v<<8)&lowNibble))
	}
	return b
}

// load is the first eight bytes as a number, the first one the lowest.
func load(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}
