package gateway

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/internal/receipt"
)

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
