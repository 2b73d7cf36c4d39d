package main

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/billing/ledger"
)

func TestAudit(t *testing.T) {
	dir := t.TempDir()
	var out, errs bytes.Buffer
	if status := run([]string{"audit", "--data", dir}, &out, &errs); status != 1 || !strings.Contains(errs.String(), "no such file") {
		t.Errorf("without a ledger: %d, %s%s", status, &out, &errs)
	}
	l, err := ledger.Open(t.Context(), "sqlite:"+dir+"/ledger.db")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out.Reset()
	if status := run([]string{"audit", "--data", dir}, &out, &errs); status != 0 || !strings.HasSuffix(out.String(), "\naudit: all of it holds\n") {
		t.Errorf("%d, %s%s", status, &out, &errs)
	}
	if status := run([]string{"audit", "now", "--data", dir}, &out, &errs); status != 2 {
		t.Errorf("with an argument: %d", status)
	}
}
