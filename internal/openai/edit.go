package openai

import (
	"bytes"
	"slices"
	"strings"
)

// modelKey is the member that a body without a model gets, but for its value.
const modelKey = `,"model":`

// Provider is the text of the provider object in the body, nil if there is none or null. It is part of the body, which
// must be the one h was read from, or what the last edit of h returned.
func (h *Head) Provider(body []byte) []byte { return h.part(body, h.provider) }

// Messages is the text of the value of messages, whatever it is, nil if there is none. Of the body it asks the same as
// Provider.
func (h *Head) Messages(body []byte) []byte { return h.part(body, h.messages) }

func (h *Head) part(body []byte, at span) []byte {
	h.check(body)
	if at.start == 0 {
		return nil
	}
	return body[at.start:at.end:at.end]
}

// ForEngine returns the body as an engine is to have it: without provider, models and session_id, which are for the
// gateway, and with the name as its model. All else stays byte for byte, and so does a body that is right already. Of the
// body it asks, and does with it, the same as WithUsage; each byte moves at most once unless the capacity is too small.
// h.Model is the name then.
func (h *Head) ForEngine(body []byte, model string) []byte {
	h.check(body)
	var list [len(h.ours) + 1]edit
	edits, bare := h.removals(body, list[:0])
	inserted := 0
	switch {
	case h.model.start == 0:
		text := string(appendString([]byte(modelKey), model))
		if bare {
			text = text[1:]
		}
		inserted = len(text) - strings.IndexByte(text, ':') - 1
		edits = append(edits, edit{span{h.end, h.end}, text})
	case !spells(body[h.model.start+1:h.model.end-1], model):
		edits = append(edits, edit{h.model, string(appendString(nil, model))})
		slices.SortFunc(edits, func(a, b edit) int { return a.at.start - b.at.start })
	}
	h.oursN, h.provider, h.Model = 0, span{}, model
	if len(edits) == 0 {
		return body
	}
	body = h.apply(body, edits)
	if inserted > 0 {
		h.model = span{h.end - inserted, h.end}
	}
	return body
}

// spells tells whether what is between a string's quotes means a text.
func spells(raw []byte, text string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw) == text
	}
	plain, ok := unescape(nil, raw)
	return ok && string(plain) == text
}

// removals appends the edits that take our members out of the body, with their commas. bare tells that no other is left.
func (h *Head) removals(body []byte, edits []edit) (_ []edit, bare bool) {
	for _, at := range h.ours[:h.oursN] {
		if n := len(edits); n > 0 && edits[n-1].at.end == at.start {
			edits[n-1].at.end = at.end
		} else {
			edits = append(edits, edit{at: at})
		}
	}
	// Each goes with the comma before it; the first of the object has none, so that the next one's has to go.
	if len(edits) == 0 || edits[0].at.start != bytes.IndexByte(body, '{')+1 {
		return edits, false
	}
	s := scanner{data: body, pos: edits[0].at.end}
	if s.space(); s.peek() != ',' {
		return edits, true
	}
	edits[0].at.end = s.pos + 1
	return edits, false
}

// edit puts a text in the place of a part of the body.
type edit struct {
	at   span
	text string
}

func (e *edit) grow() int { return len(e.text) - (e.at.end - e.at.start) }

// splice makes one edit.
func (h *Head) splice(body []byte, at span, text string) []byte {
	return h.apply(body, []edit{{at, text}})
}

// add puts a member, with a comma before it, at the end of the body, and notes where its value is.
func (h *Head) add(body []byte, member string, at *span) []byte {
	value := len(member) - strings.IndexByte(member, ':') - 1
	body = h.splice(body, span{h.end, h.end}, member)
	*at = span{h.end - value, h.end}
	return body
}

// apply makes edits, which are in their order and do not overlap, and moves the spans along.
func (h *Head) apply(body []byte, edits []edit) []byte {
	grow := 0
	for i := range edits {
		grow += edits[i].grow()
	}
	size := len(body)
	body = slices.Grow(body, max(grow, 0))[:size+max(grow, 0)]
	kept := func(i int) []byte { // what is kept after an edit
		if i+1 < len(edits) {
			return body[edits[i].at.end:edits[i+1].at.start]
		}
		return body[edits[i].at.end:size]
	}
	// Parts that go forward are moved from the front on, and then those that go backward, from the back on: so none takes
	// the place of another that has yet to go.
	by := 0
	for i := range edits {
		if by += edits[i].grow(); by < 0 {
			copy(body[edits[i].at.end+by:], kept(i))
		}
	}
	for i := len(edits) - 1; i >= 0; i-- {
		if by > 0 {
			copy(body[edits[i].at.end+by:], kept(i))
		}
		by -= edits[i].grow()
	}
	for i := range edits {
		copy(body[edits[i].at.start+by:], edits[i].text)
		by += edits[i].grow()
	}
	for i := len(edits) - 1; i >= 0; i-- {
		h.shift(edits[i].at, edits[i].grow())
	}
	h.end += grow
	h.size += grow
	return body[:size+grow]
}

// shift moves the spans along when something longer, or shorter, takes a part's place. What is put in at the very end of
// a span is no part of it.
func (h *Head) shift(at span, grow int) {
	for _, sp := range []*span{
		&h.model, &h.options, &h.usage, &h.limits[0], &h.limits[1], &h.limits[2], &h.salt, &h.messages, &h.provider,
		&h.ours[0], &h.ours[1], &h.ours[2],
	} {
		switch {
		case sp.start >= at.end:
			sp.start += grow
			sp.end += grow
		case sp.end > at.end, sp.end == at.end && at.start < at.end:
			sp.end += grow
		}
	}
}
