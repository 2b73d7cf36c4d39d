//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/attest/simtee"
	"cocoon/internal/bench/mock"
	"cocoon/internal/daemon"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
)

// workerCapacity is the requests of one worker at once; the tunnel allows it no more connections.
const workerCapacity = 4096

// workerMain is the mock as workers that dial the gateway, all in one process: the gateway's process is measured
// with the real worker hop, without the engine.
func workerMain(ctx context.Context, args []string, stderr io.Writer) error {
	f := flags(roleWorker, stderr)
	gateway := f.String("gateway", "127.0.0.1:8443", "address that workers dial")
	pin := f.String("pin", "", "the gateway's identity")
	dir := f.String("dir", ".", "folder for the workers' identities")
	workers := f.Int("workers", 1, "how many workers to be")
	first := f.Int("first", 0, "number of the first")
	over := f.Duration("over", 0, "within how long they dial in, one after the other")
	models := f.String("models", "mock", "models to offer, with commas between them")
	if err := f.Parse(args); err != nil {
		return err
	}
	id, err := tunnel.ParseID(*pin)
	if err != nil {
		return fmt.Errorf("-pin: %w", err)
	}
	log := daemon.Logger(stderr, 0)
	vendor, err := simtee.Open(filepath.Join(*dir, teeDir), time.Now())
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for n := range *workers {
		i := *first + n
		identity, err := tunnel.LoadIdentity(filepath.Join(*dir, fmt.Sprintf("worker-%d.pem", i)))
		if err != nil {
			return err
		}
		sheet, err := json.Marshal(mockSheet(fmt.Sprintf("mock-%d", i), strings.Split(*models, ",")))
		if err != nil {
			return err
		}
		prover, till, err := responder(vendor, identity.ID(), strings.Split(*models, ","))
		if err != nil {
			return err
		}
		d := tunnel.NewDialer(tunnel.DialerConfig{
			Identity: identity, Address: *gateway, Pin: &id, Handler: &mock.Handler{Meter: till.meter}, Log: log,
			Attest: func(ctx context.Context, export tunnel.Exporter, challenge []byte) ([]byte, error) {
				return prover.Answer(ctx, export, challenge)
			},
			Receipts:    func(_ context.Context, acks []byte) ([]byte, error) { return nil, exchange(acks) },
			Countersign: till.countersign,
			Report:      func(ctx context.Context, after uint64) (uint64, []byte) { return report(ctx, after, sheet) },
			Capacity:    func() int { return workerCapacity },
		})
		group.Go(func() error {
			select {
			case <-time.After(*over * time.Duration(n) / time.Duration(*workers)):
				return d.Run(ctx)
			case <-ctx.Done():
				return nil
			}
		})
	}
	return group.Wait()
}

// mockEpoch is that of a worker's one keyset.
const mockEpoch = 1

// responder attests a worker that runs in a simulated machine; the till signs with the key that is attested.
func responder(vendor *simtee.Vendor, id tunnel.ID, models []string) (*channel.Responder, *till, error) {
	machine, err := vendor.NewMachine(simtee.Config{})
	if err != nil {
		return nil, nil, err
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	k := attest.Keyset{
		V: attest.Version, Role: attest.Worker, ID: attest.Digest(id), TLS: attest.Digest(id), Epoch: mockEpoch,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		HPKE: &attest.HPKEKey{KEM: 1, Public: []byte("none: nothing is sealed here")}, Receipt: public,
	}
	for _, m := range models {
		k.Models = append(k.Models, attest.Model{Name: m, Engine: mockEngine})
	}
	keyset, err := json.Marshal(k)
	if err != nil {
		return nil, nil, err
	}
	t := &till{worker: receipt.Digest(id), keyset: sha256.Sum256(keyset), key: key}
	return &channel.Responder{Attester: machine, Keyset: func() []byte { return keyset }}, t, nil
}

// report is the sheet, once: it never changes.
func report(ctx context.Context, after uint64, sheet []byte) (uint64, []byte) {
	if after < 1 {
		return 1, sheet
	}
	<-ctx.Done()
	return after, nil
}

func mockSheet(name string, models []string) offer.Sheet {
	s := offer.Sheet{V: offer.Version, Version: 1, Name: name}
	for _, m := range models {
		s.Offers = append(s.Offers, offer.Offer{
			Model: m, Engine: mockEngine, ContextTokens: mock.Context, Features: []string{offer.FeatureChat},
			Price: mockPrice(), Slots: workerCapacity, Capacity: workerCapacity,
		})
	}
	return s
}
