package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"cocoon/attest"
	"cocoon/internal/nanoton"
)

// receipts prints a tree for each receipt and for each machine whose evidence was judged, and one line with the
// verdict.
func (p *printer) receipts(slips []*slip, signers []*signer) error {
	for _, s := range slips {
		p.slip(s)
		p.printf("\n")
	}
	for _, s := range signers {
		p.tree(s.machine)
		p.printf("\n")
	}
	verdict, line := receiptsLine(slips, signers)
	return p.conclude(verdict, line)
}

func (p *printer) slip(s *slip) {
	p.printf("receipt %s (%s, number %d)\n", s.ID(), printable(s.file, cellMax), s.number)
	p.printf("  %s, %s, mode %s, worker %s\n", s.Request, cell(s.Model), s.Mode, cell(s.Worker.String()))
	p.printf("  %s to %s, %s, %s\n", stamp(time.UnixMilli(s.Start)), stamp(time.UnixMilli(s.End)), s.Kind, s.Status)
	p.printf("  tokens: %d in (%d cached), %d out (%d reasoning)\n", s.Tokens.In, s.Tokens.Cached, s.Tokens.Out, s.Tokens.Reasoning)
	p.printf("  price: %d in, %d cached, %d out, nanoTON per million tokens\n",
		int64(s.Price.In), int64(s.Price.Cached), int64(s.Price.Out))
	p.printf("  cost: %d nanoTON (%s)\n", int64(s.Cost), s.Cost)
	width := 0
	for _, c := range s.checks {
		width = max(width, len(c.Name))
	}
	for _, c := range s.checks {
		p.check(c, width)
	}
	for _, n := range s.notes {
		p.printf("  note: %s\n", printable(shorten(n), messageMax))
	}
	p.printf("  verdict: %s\n", s.verdict)
}

// total is what the requests cost together: of each the last receipt counts. ok is false if that is beyond all money.
func total(slips []*slip) (requests int, sum nanoton.Amount, ok bool) {
	last := make(map[string]*slip)
	for _, s := range slips {
		if before := last[s.Request]; before == nil || s.Seq >= before.Seq {
			last[s.Request] = s
		}
	}
	for _, s := range last {
		if sum > math.MaxInt64-s.Cost {
			return len(last), 0, false
		}
		sum += s.Cost
	}
	return len(last), sum, true
}

// receiptsLine is the last line: what became of all receipts, and which to look at first.
func receiptsLine(slips []*slip, signers []*signer) (attest.Verdict, string) {
	verdict, _ := sumUpReceipts(slips)
	var worst []*slip
	for _, s := range slips {
		if s.verdict == verdict {
			worst = append(worst, s)
		}
	}
	if len(worst) == 0 {
		return attest.Rejected, "REJECTED: there is nothing to judge"
	}
	first := worst[0]
	of := fmt.Sprintf("receipt %s: ", cell(first.ID().String()))
	if len(slips) > 1 {
		of = fmt.Sprintf("%d of %d receipts; %s", len(worst), len(slips), of)
	}
	why := reason(&attest.Result{Checks: first.checks})
	switch verdict {
	case attest.Verified:
		requests, sum, ok := total(slips)
		line := fmt.Sprintf("VERIFIED: receipts: %d, requests: %d", len(slips), requests)
		if ok {
			line += fmt.Sprintf(", cost: %d nanoTON (%s)", int64(sum), sum)
		}
		line += ", under policy " + cell(signers[0].result.Policy)
		if n := slipSkips(slips); n > 0 {
			line += fmt.Sprintf("; tree heads whose signature was not checked, without --log-key: %d", n)
		}
		return verdict, line
	case attest.Simulated:
		return verdict, "SIMULATED, NOT VERIFIED: " + of + "simulated hardware proves nothing"
	case attest.Unsupported:
		return verdict, "UNSUPPORTED: " + of + why
	}
	return attest.Rejected, "REJECTED: " + of + why
}

func slipSkips(slips []*slip) (n int) {
	for _, s := range slips {
		for _, c := range s.checks {
			if c.Outcome == attest.Skip {
				n++
			}
		}
	}
	return n
}

// printReceiptsJSON prints all that was found as one object.
func printReceiptsJSON(out io.Writer, slips []*slip, signers []*signer, verdict attest.Verdict) error {
	type entry struct {
		ID      string         `json:"id"`
		Request string         `json:"request"`
		File    string         `json:"file"`
		Number  int            `json:"number"`
		Cost    nanoton.Amount `json:"cost_nanoton"`
		Verdict attest.Verdict `json:"verdict"`
		Checks  []attest.Check `json:"checks"`
		Notes   []string       `json:"notes,omitempty"`
	}
	answer := struct {
		Verdict  attest.Verdict   `json:"verdict"`
		Exit     int              `json:"exit"`
		Receipts []entry          `json:"receipts"`
		Machines []*attest.Result `json:"machines"`
	}{Verdict: verdict, Machines: make([]*attest.Result, 0, len(signers))}
	_, answer.Exit = sumUpReceipts(slips)
	for _, s := range slips {
		answer.Receipts = append(answer.Receipts, entry{
			s.ID().String(), s.Request, s.file, s.number, s.Cost, s.verdict, s.checks, s.notes,
		})
	}
	for _, s := range signers {
		answer.Machines = append(answer.Machines, s.result)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(answer); err != nil {
		return err
	}
	_, err := io.WriteString(out, escapeJSON(b.String()))
	return err
}
