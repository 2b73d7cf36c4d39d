package e2e_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSDKsBrokenStream breaks a stream after it has begun: every client must raise an error, none may take what came
// for the whole answer.
func TestSDKsBrokenStream(t *testing.T) {
	t.Parallel()
	breaks := []string{"error", "end", "cut", "nonsense"}
	g := startGateway(t, "auto")
	g.startWorker(t, "broken", serveEngine(t, "m", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		c := &call{w: w, stream: true}
		c.say("hel")
		time.Sleep(200 * time.Millisecond) // the piece arrives before the break
		switch {
		case bytes.Contains(body, []byte("error")):
			_, _ = io.WriteString(w, outOfMemory)
		case bytes.Contains(body, []byte("end")):
			_, _ = io.WriteString(w, "data: [DONE]\n\n")
		case bytes.Contains(body, []byte("cut")):
			panic(http.ErrAbortHandler)
		default:
			_, _ = io.WriteString(w, "data: nonsense\n\ndata: [DONE]\n\n")
		}
	}))
	g.serves(t, startMax, "m")
	for _, k := range sdks() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			if k.ready != nil {
				k.ready(t)
			}
			var list []question
			for _, how := range breaks {
				list = append(list, question{Model: "m", Text: how, Stream: true})
			}
			for i, got := range k.ask(t, g.client, list) {
				how := breaks[i]
				if got.Failure == nil || !strings.Contains(got.Failure.Message, "worker failed") {
					t.Errorf("%s: text %q, finish %q, failure %+v", how, got.Text, got.Finish, got.Failure)
				}
				if k.pieces && got.Text != "hel" {
					t.Errorf("%s: text %q before the break", how, got.Text)
				}
			}
		})
	}
}

// TestSDKsKeepAlive lets all clients wait so long that the gateway sends signs of life: no client may stumble over
// them, nor over what follows.
func TestSDKsKeepAlive(t *testing.T) {
	t.Parallel()
	const quiet = 200 * time.Millisecond
	g := startGatewayFrom(t, "", "auto", quiet)
	g.startWorker(t, "slow", serveEngine(t, "m", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		c := &call{w: w, stream: true}
		time.Sleep(5 * quiet) // some signs of life before the first event
		c.say("hel")
		time.Sleep(5 * quiet) // and some in the stream
		if bytes.Contains(body, []byte("break")) {
			return
		}
		c.say("lo")
		c.finish()
	}))
	g.serves(t, startMax, "m")
	if r := g.ask(t, prompt("m", "hi", streamed)); r.comment < 2 || r.text != "hello" {
		t.Errorf("%d signs of life: %v", r.comment, r)
	}
	for _, k := range sdks() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			if k.ready != nil {
				k.ready(t)
			}
			got := k.ask(t, g.client, []question{
				{Model: "m", Text: "hi", Stream: true}, {Model: "m", Text: "break", Stream: true},
			})
			if s := got[0]; s.Failure != nil || s.Text != "hello" || s.Finish != "stop" {
				t.Errorf("a slow answer: %q %q, failure %+v", s.Text, s.Finish, s.Failure)
			}
			if s := got[1]; s.Failure == nil {
				t.Errorf("a slow answer that breaks: %q %q, no failure", s.Text, s.Finish)
			}
		})
	}
}
