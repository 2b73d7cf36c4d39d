package ton

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/crc16"
)

// ErrAddress marks text that is no address of an account.
var ErrAddress = errors.New("not an address")

// Flags of the user-friendly form of an address.
const (
	flagBounceable    = 0x11
	flagNonBounceable = 0x51
	flagTestOnly      = 0x80
)

// Address is an account's address. The zero Address is none.
type Address struct {
	Workchain int8 // 0: the basechain; -1: the masterchain
	Hash      [32]byte
}

// ParseAddress reads an address in its user-friendly form, of 48 characters (EQ.., UQ.., and kQ.., 0Q.. as test networks
// have it; with - and _ or with + and /), or in its raw form, such as 0: and 64 hex digits. Whether it was marked as
// bounceable, or as of a test network, is not kept. The error is ErrAddress; the address of zeros, from where nothing
// comes back, is one.
func ParseAddress(text string) (Address, error) {
	var a Address
	if chain, digits, raw := strings.Cut(text, ":"); raw {
		if chain != "0" && chain != "-1" || len(digits) != 64 {
			return Address{}, fmt.Errorf("%w: %q", ErrAddress, clip(text))
		}
		if _, err := hex.Decode(a.Hash[:], []byte(digits)); err != nil {
			return Address{}, fmt.Errorf("%w: %q", ErrAddress, clip(text))
		}
		if chain == "-1" {
			a.Workchain = -1
		}
	} else {
		if len(text) != 48 {
			return Address{}, fmt.Errorf("%w: %q", ErrAddress, clip(text))
		}
		b, err := base64.RawURLEncoding.Strict().DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(text))
		if err != nil || len(b) != 36 { // line breaks are skipped by the decoder, so it may be less
			return Address{}, fmt.Errorf("%w: %q", ErrAddress, clip(text))
		}
		flags := b[0] &^ flagTestOnly
		if flags != flagBounceable && flags != flagNonBounceable ||
			crc16.ChecksumXMODEM(b[:34]) != binary.BigEndian.Uint16(b[34:]) || b[1] != 0 && b[1] != 0xff {
			return Address{}, fmt.Errorf("%w: %q", ErrAddress, clip(text))
		}
		a.Workchain, a.Hash = int8(b[1]), [32]byte(b[2:34])
	}
	if a.IsZero() {
		return Address{}, fmt.Errorf("%w: it is nobody's", ErrAddress)
	}
	return a, nil
}

// clip cuts text that goes into an error.
func clip(text string) string { return text[:min(len(text), 80)] }

// IsZero tells whether there is no address.
func (a Address) IsZero() bool { return a == Address{} }

// String is the user-friendly form that people pay to: UQ.., which does not ask for money to come back when there is no
// contract yet, with - and _. It is empty for the zero Address.
func (a Address) String() string { return a.friendly(flagNonBounceable) }

// Bounceable is the user-friendly form EQ.., which contracts that exist are called by.
func (a Address) Bounceable() string { return a.friendly(flagBounceable) }

func (a Address) friendly(flags byte) string {
	if a.IsZero() {
		return ""
	}
	b := append([]byte{flags, byte(a.Workchain)}, a.Hash[:]...)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint16(b, crc16.ChecksumXMODEM(b)))
}

// Raw is the form of workchain, colon, and 64 hex digits.
func (a Address) Raw() string { return fmt.Sprintf("%d:%x", a.Workchain, a.Hash) }

// MarshalText is String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAddress, but no text is the zero Address.
func (a *Address) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = Address{}
		return nil
	}
	b, err := ParseAddress(string(text))
	if err != nil {
		return err
	}
	*a = b
	return nil
}

// Std is the address as tonutils has it, marked as not bounceable. It is for packages below billing/ton.
func (a Address) Std() *address.Address {
	if a.IsZero() {
		return address.NewAddressNone()
	}
	return address.NewAddress(flagNonBounceable, byte(a.Workchain), a.Hash[:])
}

// FromStd takes an address from tonutils. None gives the zero Address; ErrAddress says that it is no account's.
func FromStd(s *address.Address) (Address, error) {
	if s == nil || s.IsAddrNone() {
		return Address{}, nil
	}
	if s.Type() != address.StdAddress || s.Anycast() != nil || len(s.Data()) != 32 || s.Workchain() < -1 || s.Workchain() > 0 {
		return Address{}, fmt.Errorf("%w: %s", ErrAddress, clip(s.StringRaw()))
	}
	return Address{Workchain: int8(s.Workchain()), Hash: [32]byte(s.Data())}, nil
}
