//go:build linux

package main

import (
	"context"
	"testing"
	"testing/synctest"

	"cocoon/internal/bench/mock"
)

func TestMockSheetIsValid(t *testing.T) {
	pl := fullPlan(10)
	s := mockSheet("mock-0", pl.models())
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	for _, o := range s.Offers {
		if _, err := mock.Parse(o.Model); err != nil {
			t.Error(err)
		}
	}
}

func TestReportOnlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		if v, text := report(ctx, 0, []byte("sheet")); v != 1 || string(text) != "sheet" {
			t.Errorf("first: %d, %q", v, text)
		}
		done := make(chan uint64)
		go func() {
			v, _ := report(ctx, 1, []byte("sheet"))
			done <- v
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("the second report did not wait")
		default:
		}
		cancel()
		if v := <-done; v != 1 {
			t.Errorf("second: version %d", v)
		}
	})
}
