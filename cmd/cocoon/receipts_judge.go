package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cocoon/attest"
	"cocoon/internal/receipt"
	"cocoon/internal/treeproof"
)

// slipJudge judges receipts, in the order of their files.
type slipJudge struct {
	signers []*signer
	log     note.Verifier             // nil: the user named no log
	chains  map[string]*receipt.Chain // by request
}

// judge makes all checks of one receipt, and comes to a verdict.
func (j *slipJudge) judge(s *slip) {
	by := j.signer(s)
	if text := j.keyset(s, by); text != nil {
		j.checkSigner(s, text)
	}
	s.compare("receipt.cost", s.Arithmetic(), "what the tokens cost at the price, rounded up")
	j.checkChain(s)
	j.checkLog(s)
	j.checkEvidence(s, by)
	s.verdict = s.conclude(by)
}

// conclude is the verdict: one check that failed is enough, whatever else is missing.
func (s *slip) conclude(by *signer) attest.Verdict {
	failed := len((&attest.Result{Checks: s.checks}).Failures())
	switch {
	case s.lacks && failed == 1: // the check that says what is missing
		return attest.Unsupported
	case failed > 0 || by == nil:
		return attest.Rejected
	case by.result.Verdict == attest.Verified && s.Mode == receipt.Simulated:
		return attest.Simulated
	}
	return by.result.Verdict
}

func (s *slip) pass(name, got string) {
	s.checks = append(s.checks, attest.Check{Name: name, Outcome: attest.Pass, Got: got})
}

func (s *slip) fail(name, got, want string) {
	s.checks = append(s.checks, attest.Check{Name: name, Outcome: attest.Fail, Got: got, Want: want})
}

// compare makes a check of an error; a mismatch says what was got and wanted.
func (s *slip) compare(name string, err error, want string) {
	m, ok := errors.AsType[*receipt.MismatchError](err)
	switch {
	case err == nil:
		s.pass(name, want)
	case ok:
		s.fail(name, m.Got, m.Want)
	default:
		s.fail(name, err.Error(), want)
	}
}

// signer is whose evidence has the keyset that the receipt names; nil if nobody's has.
func (j *slipJudge) signer(s *slip) *signer {
	for _, by := range j.signers {
		if by.text != nil && sha256.Sum256(by.text) == s.Receipt.Keyset {
			return by
		}
	}
	return nil
}

// keyset is the text of the keyset that the receipt names: from the evidence, or from the file.
func (j *slipJudge) keyset(s *slip, by *signer) []byte {
	const name = "receipt.keyset"
	want := s.Receipt.Keyset.String()
	if s.Item.Keyset != nil {
		if got := receipt.Digest(sha256.Sum256(s.Item.Keyset)); got != s.Receipt.Keyset {
			s.fail(name, "in the file: "+got.String(), want)
			return nil
		}
	}
	text := s.Item.Keyset
	if by != nil {
		text = by.text
	}
	if text == nil { // checkEvidence says so
		return nil
	}
	s.pass(name, want)
	return text
}

// checkSigner checks the receipt by what the keyset says.
func (j *slipJudge) checkSigner(s *slip, text []byte) {
	k, err := attest.ParseKeyset(text)
	if err != nil {
		s.fail("receipt.signer", err.Error(), "a worker's keyset")
		return
	}
	if k.Role != attest.Worker {
		s.fail("receipt.signer", string(k.Role), "a worker")
		return
	}
	s.compare("receipt.signature", s.Verify(ed25519.PublicKey(k.Receipt)), "by the keyset's receipt key")
	got := fmt.Sprintf("worker %s epoch %d", s.Worker, s.Epoch)
	if want := fmt.Sprintf("worker %s epoch %d", k.ID, k.Epoch); got != want {
		s.fail("receipt.worker", got, want)
	} else {
		s.pass("receipt.worker", got)
	}
	start, end := time.UnixMilli(s.Start), time.UnixMilli(s.End)
	got, want := stamp(start)+" to "+stamp(end), "within "+stamp(k.NotBefore)+" to "+stamp(k.NotAfter)
	if start.Before(k.NotBefore.Truncate(time.Millisecond)) || end.After(k.NotAfter) {
		s.fail("receipt.time", got, want)
	} else {
		s.pass("receipt.time", got)
	}
	s.checkModel(k)
}

// checkModel checks that the keyset names the model, as the receipt does.
func (s *slip) checkModel(k *attest.Keyset) {
	const name = "receipt.model"
	got := fmt.Sprintf("%s, weights %s, engine %s", s.Model, s.Weights, s.Engine)
	for _, m := range k.Models {
		if m.Name != s.Model {
			continue
		}
		var weights, engine string
		if weights = strings.TrimPrefix(m.WeightsDigest, "sha256:"); weights == "" {
			weights = receipt.Digest{}.String()
		}
		if engine = (receipt.Digest{}).String(); m.Engine != "" {
			engine = receipt.Digest(sha256.Sum256([]byte(m.Engine))).String()
		}
		if want := fmt.Sprintf("%s, weights %s, engine %s", m.Name, weights, engine); got != want {
			s.fail(name, got, want)
		} else {
			s.pass(name, got)
		}
		return
	}
	s.fail(name, s.Model, "a model that the keyset names")
}

// checkChain checks the receipt against those of its request that stand before it.
func (j *slipJudge) checkChain(s *slip) {
	const name = "receipt.chain"
	c := j.chains[s.Request]
	if c == nil {
		c = new(receipt.Chain)
		j.chains[s.Request] = c
	}
	err := c.Add(s.Signed)
	switch {
	case errors.Is(err, receipt.ErrDuplicate):
		s.notes = append(s.notes, "it is there twice, and counts once")
		err = nil
	case c.Last() == nil && errors.Is(err, receipt.ErrGap):
		s.notes = append(s.notes, fmt.Sprintf("the %d receipts of the request before this one are not here; its counts include theirs", s.Seq))
		err = c.Jump(s.Signed)
	}
	if err != nil {
		s.fail(name, err.Error(), "the receipt after the one before it")
		return
	}
	s.pass(name, fmt.Sprintf("seq %d, %s", s.Seq, s.Kind))
}

// checkLog checks the proof that the receipt is in a log, if there is one or has to be.
func (j *slipJudge) checkLog(s *slip) {
	const inclusion, head = "log.inclusion", "log.head"
	if s.Proof == nil {
		if j.log != nil {
			s.fail(inclusion, "no proof", "a proof that the receipt is in the log "+j.log.Name())
		}
		return
	}
	p, err := treeproof.Parse(s.Proof)
	if err != nil {
		s.fail(inclusion, err.Error(), "a proof")
		return
	}
	id := s.ID()
	h, err := p.Check(id[:], nil)
	if err != nil {
		s.fail(inclusion, err.Error(), "a path from the receipt to the tree head")
		return
	}
	s.pass(inclusion, fmt.Sprintf("index %d of %d", p.Index, h.Tree.N))
	if j.log == nil {
		s.checks = append(s.checks, attest.Check{
			Name: head, Outcome: attest.Skip, Got: "says that it is of " + h.Origin, Want: "a signature by --log-key",
		})
		return
	}
	_, err = p.Check(id[:], j.log)
	s.compare(head, err, "signed by the key of the log "+j.log.Name())
}

// checkEvidence checks that the signer is what the user's policy wants.
func (j *slipJudge) checkEvidence(s *slip, by *signer) {
	const name, want = "evidence.verdict", "evidence that verifies, of the machine with the receipt's keyset"
	switch {
	case by != nil && by.result.Verdict == attest.Unsupported:
		s.lacks = true
		s.fail(name, by.name+": "+cell(reason(by.result)), want)
		return
	case by != nil && !by.result.Verdict.Admits():
		s.fail(name, by.name+": "+reason(by.result), want)
		return
	case by != nil:
		s.pass(name, fmt.Sprintf("%s: %s", by.name, by.result.Verdict))
		s.checkMode(by)
		return
	case len(j.signers) > 0:
		s.fail(name, "evidence of other machines only", want)
		return
	}
	s.lacks = true
	s.fail(name, "none: 'cocoon verify URL --worker ID --save FILE' keeps it, and --evidence FILE names it", want)
}

// checkMode: who runs on simulated hardware has to say so.
func (s *slip) checkMode(by *signer) {
	if by.result.Verdict == attest.Simulated && s.Mode != receipt.Simulated {
		s.fail("receipt.mode", string(s.Mode), "simulated, as the signer's hardware is")
		return
	}
	if s.Mode == receipt.Unprotected {
		s.notes = append(s.notes, "the worker is attested; the gateway that the request came through says that it is not, and could read it")
	}
	s.pass("receipt.mode", string(s.Mode))
}
