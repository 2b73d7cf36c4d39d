package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"cocoon/attest"
	"cocoon/internal/terminal"
)

// Limits on what is shown, in characters. The JSON has all of it.
const (
	messageMax = 2000 // an error, or a note
	cellMax    = 400  // got or want of one check
	hexMax     = 24   // hex digits in a row that are shown whole
	hexShown   = 8    // of longer ones: so many at either end
)

// Colours of outcomes: SGR codes of ECMA-48.
const (
	green  = "32"
	red    = "1;31"
	yellow = "33"
)

// printable makes one line of text that others wrote, safe for a terminal: what neither prints nor is a blank comes out
// as Go would write it in a string, so that nothing can move the cursor, turn the line around or add a line.
func printable(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if limit--; limit < 0 {
			b.WriteString("…")
			break
		}
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(fmt.Sprintf("%+q", r), "'"))
		}
	}
	return b.String()
}

// oneLine is an error's text; joined errors stand on a line each.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// shorten leaves out the middle of long hex numbers.
func shorten(s string) string {
	long := regexp.MustCompile(fmt.Sprintf("[0-9a-fA-F]{%d,}", hexMax+1))
	return long.ReplaceAllStringFunc(s, func(h string) string { return h[:hexShown] + "…" + h[len(h)-hexShown:] })
}

func cell(s string) string { return printable(shorten(s), cellMax) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// printer writes what was found for people: a tree for each machine, and one line with the verdict at the end.
type printer struct {
	out    io.Writer
	colour bool
	err    error // the first one
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

func (p *printer) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *printer) all(machines []*machine, more int) error {
	for _, m := range machines {
		p.tree(m)
		if len(machines) > 1 {
			p.printf("  verdict: %s\n", cell(string(m.result.Verdict)))
		}
		p.printf("\n")
	}
	if more > 0 {
		p.printf("%d more workers were left out of the answer: ask for them one by one, with --worker\n", more)
	}
	verdict, line := verdictLine(machines)
	return p.conclude(verdict, line)
}

// newPrinter prints in colours if out is a terminal whose user does not mind.
func newPrinter(out *os.File) *printer {
	return &printer{out: out, colour: terminal.Is(out) && os.Getenv("NO_COLOR") == ""}
}

// conclude prints the last line, the verdict. Its error is of all that was printed.
func (p *printer) conclude(verdict attest.Verdict, line string) error {
	code := red
	if verdict == attest.Verified {
		code = green
	}
	p.printf("%s\n", p.paint(code, line))
	return p.err
}

// tree prints what was checked of one machine, by groups: the first part of the checks' names.
func (p *printer) tree(m *machine) {
	r := m.result
	p.printf("%s%s\n", m.title(), nameSuffix(m))
	p.printf("  under policy %s (sha256 %s) at %s\n", cell(r.Policy), cell(r.PolicyDigest.String()), stamp(r.At))
	var names []string
	groups := make(map[string][]attest.Check)
	for _, c := range r.Checks {
		name, rest := group(c.Name)
		if groups[name] == nil {
			names = append(names, name)
		}
		c.Name = rest
		groups[name] = append(groups[name], c)
	}
	for _, name := range names {
		p.printf("  %s\n", cell(name))
		width := 0
		for _, c := range groups[name] {
			width = max(width, len(c.Name))
		}
		for _, c := range groups[name] {
			p.check(c, width)
		}
	}
	for _, chip := range r.Claims.Chips {
		p.printf("  chip: %s\n", printable(chip, cellMax)) // whole: it is for lists
	}
	for _, note := range r.Notes {
		p.printf("  note: %s\n", printable(shorten(note), messageMax))
	}
}

// group takes the name of a check apart: gpu.0.driver is driver in the group gpu 0.
func group(name string) (group, rest string) {
	group, rest, found := strings.Cut(name, ".")
	if !found {
		return group, name
	}
	if n, tail, found := strings.Cut(rest, "."); found && n != "" && strings.Trim(n, "0123456789") == "" {
		return group + " " + n, tail
	}
	return group, rest
}

func (p *printer) check(c attest.Check, width int) {
	name := fmt.Sprintf("%-*s", width, cell(c.Name))
	var more string
	if c.Root != "" && c.Root != c.Got {
		more += ", by " + cell(c.Root)
	}
	if !c.Until.IsZero() {
		more += ", until " + stamp(c.Until)
	}
	code := red
	switch c.Outcome {
	case attest.Pass:
		code = green
	case attest.Skip:
		code = yellow
	default:
		pad := strings.Repeat(" ", width)
		p.printf("  ! %s  %s  got   %s\n", p.paint(code, cell(string(c.Outcome))), name, cell(c.Got))
		p.printf("          %s  want  %s%s\n", pad, cell(c.Want), more)
		return
	}
	got := cell(c.Got)
	if c.Want != "" && c.Want != c.Got {
		got += " (want " + cell(c.Want) + ")"
	}
	p.printf("    %s  %s  %s%s\n", p.paint(code, cell(string(c.Outcome))), name, got, more)
}

// title is what the machine is and who, as far as anybody knows.
func (m *machine) title() string {
	if id := m.idText(); id != "" {
		return string(m.role) + " " + id
	}
	return string(m.role)
}

// idText is whom the machine was asked to be; else what its keyset says, if that can be believed; else nothing.
func (m *machine) idText() string {
	switch {
	case !m.id.IsZero():
		return m.id.String()
	case m.result.Verdict.Admits() && m.result.Claims.Keyset != nil:
		return m.result.Claims.Keyset.ID.String()
	}
	return ""
}

func nameSuffix(m *machine) string {
	if m.name == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", printable(m.name, cellMax))
}

// verdictLine is the last line: what became of all machines, and for whom to look at first.
func verdictLine(machines []*machine) (attest.Verdict, string) {
	verdict, _ := sumUp(machines)
	var worst []*machine
	for _, m := range machines {
		if m.result.Verdict == verdict || verdict == attest.Rejected && !known(m.result.Verdict) {
			worst = append(worst, m)
		}
	}
	if len(worst) == 0 {
		return attest.Rejected, "REJECTED: there is nothing to judge"
	}
	first := worst[0]
	who, of := first.title(), ""
	if len(machines) > 1 {
		of = fmt.Sprintf("%d of %d machines; %s: ", len(worst), len(machines), who)
	}
	switch verdict {
	case attest.Verified:
		if len(machines) > 1 {
			who = fmt.Sprintf("%d machines", len(machines))
		}
		line := fmt.Sprintf("VERIFIED: %s, under policy %s, until %s", who, cell(first.result.Policy), stamp(firstEnd(machines)))
		if n := skips(machines); n > 0 {
			line += fmt.Sprintf("; checks skipped, as the policy allows: %d", n)
		}
		return verdict, line
	case attest.Simulated:
		if of == "" {
			of = who + ": "
		}
		return verdict, "SIMULATED, NOT VERIFIED: " + of + "simulated hardware proves nothing"
	case attest.Unsupported:
		return verdict, "UNSUPPORTED: " + of + reason(first.result)
	}
	return attest.Rejected, "REJECTED: " + of + reason(first.result)
}

func known(v attest.Verdict) bool {
	switch v {
	case attest.Verified, attest.Simulated, attest.Rejected, attest.Unsupported:
		return true
	}
	return false
}

func skips(machines []*machine) int {
	n := 0
	for _, m := range machines {
		for _, c := range m.result.Checks {
			if c.Outcome == attest.Skip {
				n++
			}
		}
	}
	return n
}

func firstEnd(machines []*machine) time.Time {
	end := machines[0].result.Expires
	for _, m := range machines {
		if m.result.Expires.Before(end) {
			end = m.result.Expires
		}
	}
	return end
}

// reason is the first check that failed, and how many others did.
func reason(r *attest.Result) string {
	failed := r.Failures()
	if len(failed) == 0 {
		return "no check says why"
	}
	text := fmt.Sprintf("%s: got %s, want %s", cell(failed[0].Name), cell(failed[0].Got), cell(failed[0].Want))
	if n := len(failed) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

// printJSON prints all that was found as one object.
func printJSON(out io.Writer, machines []*machine, verdict attest.Verdict, status int) error {
	type entry struct {
		ID     string         `json:"id"` // empty: unknown
		Role   attest.Role    `json:"role"`
		Result *attest.Result `json:"result"`
	}
	answer := struct {
		Verdict  attest.Verdict `json:"verdict"`
		Exit     int            `json:"exit"`
		Machines []entry        `json:"machines"`
	}{verdict, status, make([]entry, 0, len(machines))}
	for _, m := range machines {
		answer.Machines = append(answer.Machines, entry{m.idText(), m.role, m.result})
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

// escapeJSON escapes what does not print, beyond what JSON demands: it may end on a terminal. All of it stands in
// strings, but for the encoder's own line breaks.
func escapeJSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
