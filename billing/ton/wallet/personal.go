package wallet

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	tonwallet "github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// Mainnet is the network number of the real money; networks for tests have others.
const Mainnet = -239

// PersonalMax is how many transfers one message to a wallet V5 may ask for.
const PersonalMax = 255

// personalGasMax is the most that one message to a wallet V5 may cost besides what goes by its size, nanoTON.
const personalGasMax nanoton.Amount = 10_000_000

// opSigned is the tag of a signed external message to a wallet V5.
const opSigned = 0x7369676e

// ErrWallet marks a contract that is not the wallet V5 of this key and network.
var ErrWallet = errors.New("not the wallet of this key")

// Personal is a wallet V5R1, as people's wallet programs make of the same key.
type Personal struct {
	signer  Signer
	id      uint32 // of the wallet in its network
	address ton.Address
	init    *tlb.StateInit
	code    [32]byte
	err     error // of its making
}

// NewPersonal makes a wallet of a key. Its address depends on the network's number (param 19 of the network's
// configuration), so that what it signs for one network cannot be used on another.
func NewPersonal(s Signer, network int32) *Personal {
	p := &Personal{signer: s, id: tonwallet.V5R1ID{NetworkGlobalID: network}.Serialized()}
	if p.init, p.err = tonwallet.GetStateInit(s.Public(), tonwallet.ConfigV5R1Final{NetworkGlobalID: network}, 0); p.err == nil {
		p.address, p.err = addressOf(p.init)
		p.code = p.init.Code.HashKey()
	}
	return p
}

// Address is the wallet's.
func (p *Personal) Address() ton.Address { return p.address }

// Need is the balance with which all transfers are sent for sure. As with Highload it is a bound, for fees vary.
func (p *Personal) Need(t []Transfer) nanoton.Amount {
	packed, err := pack(p.address, t, PersonalMax)
	if err != nil {
		return math.MaxInt64
	}
	return packed.need()
}

func (p packed) need() nanoton.Amount {
	return p.amount + p.forward + p.size.forwardMax() + personalGasMax
}

// Message makes the signed external message that has the wallet send 1 to PersonalMax transfers, by its proven state, until
// a moment of the chain's time. It can be executed once, and only if no other message of this wallet is executed before; the
// first one deploys the wallet. It is refused if the balance may not cover all of it, since the wallet would leave out what
// it cannot pay and say nothing: ErrShort. Also ErrTransfer, ErrTooLarge, ErrWallet.
func (p *Personal) Message(ctx context.Context, st ton.State, validUntil time.Time, t []Transfer) ([]byte, error) {
	if p.err != nil {
		return nil, p.err
	}
	if st.Address != p.address {
		return nil, fmt.Errorf("%w: the state is that of %v, not of %v", ErrWallet, st.Address, p.address)
	}
	if u := validUntil.Unix(); u <= 0 || u > math.MaxUint32 {
		return nil, fmt.Errorf("%w: valid until %v", ErrTransfer, validUntil)
	}
	packed, err := pack(p.address, t, PersonalMax)
	if err != nil {
		return nil, err
	}
	if need := packed.need() + st.Due; st.Balance < need {
		return nil, &ShortError{Need: need, Have: st.Balance}
	}
	var seqno uint32
	init := p.init
	if st.Active {
		init = nil
		if seqno, err = p.seqno(st); err != nil {
			return nil, err
		}
	}
	payload := cell.BeginCell().MustStoreUInt(opSigned, 32).MustStoreUInt(uint64(p.id), 32).
		MustStoreUInt(uint64(validUntil.Unix()), 32).MustStoreUInt(uint64(seqno), 32).
		MustStoreBoolBit(true).MustStoreRef(packed.list). // there are actions to send,
		MustStoreBoolBit(false)                           // and none that change the wallet
	signature, err := sign(ctx, p.signer, payload.EndCell())
	if err != nil {
		return nil, err
	}
	return external(p.address, init, payload.MustStoreSlice(signature, 512).EndCell())
}

// seqno reads the number of the next message from the wallet's data.
func (p *Personal) seqno(st ton.State) (uint32, error) {
	if st.Code == nil || st.Data == nil || st.Code.HashKey() != p.code {
		return 0, fmt.Errorf("%w: %v has other code", ErrWallet, st.Address)
	}
	s, err := st.Data.BeginParse()
	if err != nil {
		return 0, fmt.Errorf("%w: reading its data: %w", ErrWallet, err)
	}
	allowed, err := s.LoadBoolBit()
	if err != nil {
		return 0, fmt.Errorf("%w: reading its data: %w", ErrWallet, err)
	}
	seqno, err := s.LoadUInt(32)
	if err != nil {
		return 0, fmt.Errorf("%w: reading its data: %w", ErrWallet, err)
	}
	id, err := s.LoadUInt(32)
	if err != nil {
		return 0, fmt.Errorf("%w: reading its data: %w", ErrWallet, err)
	}
	key, err := s.LoadSlice(256)
	if err != nil {
		return 0, fmt.Errorf("%w: reading its data: %w", ErrWallet, err)
	}
	if uint32(id) != p.id || !p.signer.Public().Equal(ed25519.PublicKey(key)) {
		return 0, fmt.Errorf("%w: %v has another key or network", ErrWallet, st.Address)
	}
	if !allowed {
		return 0, fmt.Errorf("%w: %v takes no signed messages, by its owner's wish", ErrWallet, st.Address)
	}
	return uint32(seqno), nil
}

// Seqno is the number of the next message by the wallet's proven state: it grows by one with each executed message, 0 if the
// wallet is not deployed. A message that was made for a lower number is executed, or never will be.
func (p *Personal) Seqno(st ton.State) (uint32, error) {
	if st.Address != p.address {
		return 0, fmt.Errorf("%w: the state is that of %v, not of %v", ErrWallet, st.Address, p.address)
	}
	if !st.Active {
		return 0, nil
	}
	return p.seqno(st)
}

// methods runs get-methods on proven states: a *ton.Client.
type methods interface {
	Get(ctx context.Context, s ton.State, method string, args ...any) ([]any, error)
}

// NetworkOf reads the network's number from its proven configuration, as of a block. It has the client's machine run a
// contract of two instructions, which is nowhere on the chain and gives the number back.
func NetworkOf(ctx context.Context, c methods, h ton.Head) (int32, error) {
	code := cell.BeginCell().MustStoreUInt(0x30, 8).MustStoreUInt(0xf835, 16).EndCell() // DROP the method's number; GLOBALID
	s := ton.State{Address: ton.Address{Hash: code.HashKey()}, Active: true, Code: code, Data: cell.BeginCell().EndCell(), At: h}
	results, err := c.Get(ctx, s, "network")
	if err != nil {
		return 0, fmt.Errorf("reading the network's number: %w", err)
	}
	if len(results) == 1 {
		if n, ok := results[0].(*big.Int); ok && n.IsInt64() && n.Int64() == int64(int32(n.Int64())) {
			return int32(n.Int64()), nil
		}
	}
	return 0, errors.New("reading the network's number: it is none")
}
