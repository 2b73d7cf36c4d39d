package mock

import (
	"fmt"
	"io"
	"net/http"
)

// Handler serves the mock behind net/http, as a worker's engine: every stream ends with a usage chunk and [DONE].
type Handler struct{ answers answers }

// ServeHTTP answers POST .../chat/completions.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	if !call.stream {
		answer := h.answers.get(call.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
		_, _ = w.Write(answer) // a client that went away is no news
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	call.usage = true
	_ = call.pieces(r.Context(), make([]byte, 0, 2*contentSize), func(piece []byte) error {
		if _, err := w.Write(piece); err != nil {
			return err
		}
		return flush.Flush()
	})
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"message":%q,"type":"invalid_request_error","param":null,"code":null}}`, message)
}
