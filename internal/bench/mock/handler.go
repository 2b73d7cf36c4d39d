package mock

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Handler serves the mock behind net/http, as a worker's engine: every stream ends with a usage chunk and [DONE].
type Handler struct {
	// Meter gives what makes the receipt of a request's answer, nil if none is wanted. An error refuses the request.
	// Without Meter none is made.
	Meter func(*http.Request) (Sign, error)

	answers answers
}

// Sign makes the receipt of an answer, in its wire form.
type Sign func(*Served) (wire []byte, err error)

// Served is an answer that is all made.
type Served struct {
	Model     string
	Req, Resp [sha256.Size]byte // hashes of the bodies, of the answer's without the receipt
	Start     time.Time
	First     time.Time // when the answer began
}

// ServeHTTP answers POST .../chat/completions.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	var sign Sign
	if h.Meter != nil {
		var err error
		if sign, err = h.Meter(r); err != nil {
			refuse(w, http.StatusServiceUnavailable, err.Error())
			return
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMax))
	if err != nil {
		refuse(w, http.StatusBadRequest, "reading the request failed")
		return
	}
	call, err := parseCall(body)
	if err != nil {
		refuse(w, http.StatusNotFound, err.Error())
		return
	}
	sleep(r.Context(), call.Wait)
	s := Served{Model: call.model, Start: start, First: time.Now()}
	if sign != nil {
		s.Req = sha256.Sum256(body)
	}
	if call.stream {
		stream(w, r, &call, &s, sign)
		return
	}
	h.whole(w, &call, &s, sign)
}

// whole answers at once. The receipt stands on the lines behind the answer.
func (h *Handler) whole(w http.ResponseWriter, c *call, s *Served, sign Sign) {
	answer := h.answers.get(c.Body)
	var wire []byte
	if sign != nil {
		s.Resp = sha256.Sum256(answer)
		var err error
		if wire, err = sign(s); err != nil {
			refuse(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		wire = append([]byte("\n"), wire...)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)+len(wire)))
	_, _ = w.Write(answer) // a client that went away is no news
	_, _ = w.Write(wire)
}

// stream answers piece by piece. The receipt is an event of its own, after the content and before the usage.
func stream(w http.ResponseWriter, r *http.Request, c *call, s *Served, sign Sign) {
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	c.usage = true
	var resp hash.Hash // nil if nobody asks
	if sign != nil {
		resp = sha256.New()
		c.receipt = func(rest string) ([]byte, error) {
			_, _ = io.WriteString(resp, rest) // a hash never fails
			resp.Sum(s.Resp[:0])
			resp = nil
			return sign(s)
		}
	}
	_ = c.pieces(r.Context(), make([]byte, 0, 2*contentSize), func(piece []byte) error {
		if resp != nil {
			_, _ = resp.Write(piece)
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		return flush.Flush()
	})
}

// appendEvent appends an event whose data are lines.
func appendEvent(b, lines []byte) []byte {
	for line := range bytes.Lines(lines) {
		b = append(append(b, "data: "...), line...)
	}
	return append(b, '\n')
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"error":{"message":`+strconv.Quote(message)+`,"type":"invalid_request_error","param":null,"code":null}}`)
}
