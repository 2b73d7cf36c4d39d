package ton

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"cocoon/internal/strictjson"

	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
)

// ProofMax bounds a proof, bytes. One key block of the main network takes some 50 KB, and there are about three a day, so
// that an init block may be half a year old.
const ProofMax = 32 << 20

// ErrProofTooLong says that the network's init block is so old that a proof from there is longer than ProofMax.
var ErrProofTooLong = errors.New("the proof is too long: take a newer network config, with a newer init block")

// Proof is an account's state with all that proves it to somebody who knows no more than the network's config: blocks with
// their validators' signatures from its init block to one block, that block's header, the account's state in it. It can be
// kept, and read again without any liteserver.
type Proof struct {
	State State

	init    *ton.BlockIDExt
	links   []link // from the init block to State.At
	header  []byte
	account []byte
}

// link is a piece of the chain of blocks, as a liteserver gives it: an answer of TL.
type link struct {
	from, to *ton.BlockIDExt
	key      bool // it ends at a key block, so that others can go on from there
	answer   []byte
}

// proofFile is a proof's form as a file.
type proofFile struct {
	What    string   `json:"what"`
	V       int      `json:"v"`
	Seqno   uint32   `json:"seqno"` // of the masterchain block
	Root    hexBytes `json:"root_hash"`
	File    hexBytes `json:"file_hash"`
	Address Address  `json:"address"`
	Links   [][]byte `json:"links"`
	Header  []byte   `json:"header"`
	Account []byte   `json:"account"`
}

const proofWhat = "proven state of an account of the TON blockchain"

// hexBytes are bytes in hexadecimal.
type hexBytes []byte

// MarshalText is the bytes in hexadecimal.
func (b hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

// UnmarshalText reads hexadecimal digits.
func (b *hexBytes) UnmarshalText(text []byte) error {
	v, err := hex.DecodeString(string(text))
	*b = v
	return err
}

// Prove gets the account's state as of the block, as Account does, with the proof for those who know the network's config
// alone. What an older proof has of it is taken from there; nil: there is none. Errors: ErrProofTooLong, ErrUnreachable.
func (c *Client) Prove(ctx context.Context, network []byte, h Head, a Address, before *Proof) (*Proof, error) {
	n, err := parseNetwork(network)
	if err != nil {
		return nil, err
	}
	if h.id == nil || a.IsZero() {
		return nil, errors.New("proof: there is no head, or no address")
	}
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var p *Proof
	err = c.ask(ctx, "proof", func(s *server) error {
		t := &tape{server: s, kept: map[string]link{}}
		if before != nil {
			for _, l := range before.links {
				t.kept[string(l.from.RootHash)] = l
			}
		}
		p, err = t.record(ctx, n.Validator.Init.ext(), h.id, a)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ParseProof reads a proof and checks all of it, against the init block of the network's config. The error is ErrProof.
// It says nothing about how old the state is: State.At does.
func ParseProof(network, text []byte) (p *Proof, err error) {
	n, err := parseNetwork(network)
	if err != nil {
		return nil, err
	}
	if len(text) > ProofMax {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrProof, ProofMax)
	}
	var f proofFile
	if err := strictjson.Decode(text, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	id := &ton.BlockIDExt{Workchain: -1, Shard: masterShard, SeqNo: f.Seqno, RootHash: f.Root, FileHash: f.File}
	if f.What != proofWhat || f.V != 1 || !plausible(id) || f.Address.IsZero() {
		return nil, fmt.Errorf("%w: version %d, block %d, address %q: that is none", ErrProof, f.V, f.Seqno, f.Address)
	}
	defer func() { // as with liteservers: the library takes some of the form for granted
		if v := recover(); v != nil {
			p, err = nil, fmt.Errorf("%w: it cannot be parsed: %s; %s", ErrProof, clip(fmt.Sprint(v)), firstFrames(debug.Stack()))
		}
	}()
	t := &tape{kept: map[string]link{}, header: f.Header, account: f.Account}
	for _, answer := range f.Links {
		l, err := parseLink(answer)
		if err != nil {
			return nil, err
		}
		t.kept[string(l.from.RootHash)] = l
	}
	if p, err = t.record(context.Background(), n.Validator.Init.ext(), id, f.Address); err != nil && !errors.Is(err, ErrProof) {
		err = fmt.Errorf("%w: %w", ErrProof, err)
	}
	return p, err
}

// Encode is the proof as a file, for ParseProof.
func (p *Proof) Encode() ([]byte, error) {
	id := p.State.At.id
	f := proofFile{
		What: proofWhat, V: 1, Seqno: id.SeqNo, Root: id.RootHash, File: id.FileHash, Address: p.State.Address,
		Header: p.header, Account: p.account,
	}
	for _, l := range p.links {
		f.Links = append(f.Links, l.answer)
	}
	text, err := json.Marshal(f)
	if err == nil && len(text) >= ProofMax {
		err = ErrProofTooLong
	}
	if err != nil {
		return nil, fmt.Errorf("encoding a proof: %w", err)
	}
	return append(text, '\n'), nil
}

// tape is a client of the lite API that answers what it has on it, and asks its server for the rest, which it keeps. So
// what is read from a file goes through the same checks as what a liteserver says.
type tape struct {
	server  *server         // nil: all there is, is on the tape
	kept    map[string]link // by the root hash of the block they lead from
	used    []link          // those that were asked for
	size    int             // of those, bytes
	header  []byte
	account []byte
}

// errNotKept says that the question can't be answered from the tape.
var errNotKept = errors.New("a piece of the proof is missing")

// record asks for all that the proof takes, and checks it.
func (t *tape) record(ctx context.Context, init, id *ton.BlockIDExt, a Address) (*Proof, error) {
	if id.SeqNo < init.SeqNo {
		return nil, fmt.Errorf("%w: block %d is from before the init block %d of the network's config", ErrProof, id.SeqNo,
			init.SeqNo)
	}
	api := ton.NewAPIClient(t, ton.ProofCheckPolicySecure)
	if err := api.VerifyProofChain(ctx, init, id); err != nil {
		if errors.Is(err, ErrProofTooLong) {
			return nil, ErrProofTooLong
		}
		return nil, proofError(err)
	}
	h, err := (&server{api: api}).header(ctx, id)
	if err != nil {
		return nil, err
	}
	var answer tl.Serializable
	question := ton.GetAccountState{ID: id, Account: ton.AccountID{Workchain: int32(a.Workchain), ID: a.Hash[:]}}
	if err := t.QueryLiteserver(ctx, question, &answer); err != nil {
		return nil, err
	}
	r, ok := answer.(ton.AccountState)
	if !ok {
		return nil, errOther
	}
	st, err := accountAt(&r, h, a)
	if err != nil {
		return nil, err
	}
	return &Proof{State: st, init: init, links: t.used, header: t.header, account: t.account}, nil
}

// QueryLiteserver answers from the tape, or asks.
func (t *tape) QueryLiteserver(ctx context.Context, question, result tl.Serializable) error {
	into, ok := result.(*tl.Serializable)
	if !ok {
		return errOther
	}
	switch q := question.(type) {
	case ton.GetBlockProof:
		return t.blocks(ctx, q, into)
	case ton.GetBlockHeader:
		return t.piece(ctx, question, into, &t.header)
	case ton.GetAccountState:
		return t.piece(ctx, question, into, &t.account)
	}
	return errNotKept
}

// blocks answers with a piece of the chain of blocks.
func (t *tape) blocks(ctx context.Context, q ton.GetBlockProof, into *tl.Serializable) error {
	l, ok := t.kept[string(q.KnownBlock.RootHash)]
	fits := ok && (l.to.Equals(q.TargetBlock) || l.key && l.to.SeqNo < q.TargetBlock.SeqNo)
	if fits {
		if err := parseTL(into, l.answer); err != nil {
			return err
		}
	} else {
		if t.server == nil {
			return errNotKept
		}
		if err := t.server.QueryLiteserver(ctx, q, into); err != nil {
			return err
		}
		answer, ok := (*into).(ton.PartialBlockProof)
		if !ok {
			return nil // the caller says what is wrong with it
		}
		var err error
		if l, err = newLink(&answer); err != nil {
			return err
		}
	}
	if t.size += len(l.answer); t.size > ProofMax/2 { // base64 takes a third more
		return ErrProofTooLong
	}
	t.used = append(t.used, l)
	return nil
}

// piece answers with one of the other parts.
func (t *tape) piece(ctx context.Context, question tl.Serializable, into *tl.Serializable, kept *[]byte) error {
	if t.server == nil {
		return parseTL(into, *kept)
	}
	if err := t.server.QueryLiteserver(ctx, question, into); err != nil {
		return err
	}
	if e, ok := (*into).(ton.LSError); ok {
		return &serverError{e.Code, e.Text}
	}
	var err error
	*kept, err = tl.Serialize(*into, true)
	return err
}

// parseTL reads an answer, all of it.
func parseTL(into *tl.Serializable, answer []byte) error {
	rest, err := tl.Parse(into, answer, true)
	if err == nil && len(rest) > 0 {
		err = errors.New("something follows an answer")
	}
	if err != nil {
		return fmt.Errorf("%w: %s", ErrProof, clip(err.Error()))
	}
	return nil
}

func newLink(p *ton.PartialBlockProof) (link, error) {
	if !plausible(p.From) || !plausible(p.To) || len(p.Steps) == 0 {
		return link{}, fmt.Errorf("%w: a piece of the chain of blocks leads nowhere", ErrProof)
	}
	answer, err := tl.Serialize(*p, true)
	if err != nil {
		return link{}, err
	}
	l := link{from: p.From, to: p.To, answer: answer}
	switch last := p.Steps[len(p.Steps)-1].(type) {
	case ton.BlockLinkForward:
		l.key = last.ToKeyBlock
	case ton.BlockLinkBackward:
		l.key = last.ToKeyBlock
	}
	return l, nil
}

func parseLink(answer []byte) (link, error) {
	var v tl.Serializable
	if err := parseTL(&v, answer); err != nil {
		return link{}, err
	}
	p, ok := v.(ton.PartialBlockProof)
	if !ok {
		return link{}, fmt.Errorf("%w: a piece of the chain of blocks is something else", ErrProof)
	}
	return newLink(&p)
}

// StickyContext changes nothing: there is one server, or none.
func (t *tape) StickyContext(ctx context.Context) context.Context { return ctx }

// StickyContextNextNode fails: there is no other server.
func (t *tape) StickyContextNextNode(ctx context.Context) (context.Context, error) {
	return ctx, liteclient.ErrNoNodesLeft
}

// StickyContextNextNodeBalanced fails: there is no other server.
func (t *tape) StickyContextNextNodeBalanced(ctx context.Context) (context.Context, error) {
	return ctx, liteclient.ErrNoNodesLeft
}

// StickyNodeID is zero: there is one server, or none.
func (t *tape) StickyNodeID(context.Context) uint32 { return 0 }
