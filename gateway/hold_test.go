package gateway

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/internal/receipt"
)

func TestHasMedia(t *testing.T) {
	for body, want := range map[string]bool{
		`{"content":"_url _audio file image_url"}`:                         false,
		`{"base_url":"x","my_audio":1,"a_file":2}`:                         false,
		`{"type":"image_url","image_url":{"url":"data:"}}`:                 true,
		`{"a_url":1,"type":"video_url"}`:                                   true,
		`{"type":"audio_url"}`:                                             true,
		`{"type":"input_audio","input_audio":{}}`:                          true,
		`{"type":"file","file":{"file_id":"x"}}`:                           true,
		`{"content":"` + strings.Repeat("a", 40<<10) + `","t":"file"}`:     true,
		`{"content":"` + strings.Repeat(`\"_url`, 4<<10) + `","t":"tile"}`: false,
	} {
		if got := hasMedia([]byte(body)); got != want {
			t.Errorf("%.60s: %v", body, got)
		}
	}
}

func TestSplitReceipt(t *testing.T) {
	long, wire := strings.Repeat("a", 2*receipt.WireMax), "cocoon-receipt/v1\nrequest x"
	for _, c := range [][3]string{ // body, answer, receipt
		{"", "", ""},
		{"{}", "{}", ""},
		{"{}\n", "{}\n", ""},
		{"{}\n" + wire, "{}", wire},
		{long + "\n" + wire, long, wire},
		{"{}\n\n" + wire, "{}\n", wire},
		{wire, wire, ""},                                        // no answer before it
		{"{}\n" + wire + long, "{}\n" + wire + long, ""},        // longer than any
		{"{}\n" + wire + "\n" + wire, "{}", wire + "\n" + wire}, // refused when it is read
	} {
		answer, got := receipt.Split([]byte(c[0]))
		if !bytes.Equal(answer, []byte(c[1])) || !bytes.Equal(got, []byte(c[2])) {
			t.Errorf("%.60q: %.60q and %.60q", c[0], answer, got)
		}
	}
}
