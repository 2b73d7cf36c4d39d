package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/internal/tunnel"
)

// Enrolment states of a worker.
const (
	Pending  = "pending"
	Approved = "approved"
	Revoked  = "revoked"
)

// pendingMax bounds the workers that wait for approval: anyone can dial in and be one.
const pendingMax = 1000

// Enrolled is a worker that dialed in at least once, and what the operator decided about it.
type Enrolled struct {
	ID    string    `json:"id"`
	State string    `json:"state"`
	First time.Time `json:"first_seen"`
}

var (
	// ErrNoWorker means that no worker with this ID ever dialed in.
	ErrNoWorker = errors.New("no such worker")
	// errNotEnrolled is what an unapproved worker's handshake ends with.
	errNotEnrolled = errors.New("worker is not enrolled")
)

// Workers is the file of enrolled workers. The gateway sees a change within a second.
type Workers struct{ store store[workerFile] }

type workerFile struct {
	Workers []Enrolled `json:"workers"`
}

// OpenWorkers is the enrolment file of a data folder; it need not exist yet.
func OpenWorkers(dataDir string) *Workers {
	return &Workers{store[workerFile]{filepath.Join(dataDir, "workers.json")}}
}

// List is all workers that ever dialed in, oldest first.
func (w *Workers) List() ([]Enrolled, error) {
	f, err := w.store.load()
	slices.SortStableFunc(f.Workers, func(a, b Enrolled) int { return cmp.Compare(a.First.UnixNano(), b.First.UnixNano()) })
	return f.Workers, err
}

// Decide approves or revokes a worker. One that never dialed in can be approved ahead of time by its full ID.
func (w *Workers) Decide(id, state string, now time.Time) error {
	return w.store.update(func(f *workerFile) error {
		i := slices.IndexFunc(f.Workers, func(e Enrolled) bool { return e.ID == id })
		if i >= 0 {
			f.Workers[i].State = state
			return nil
		}
		if _, err := tunnel.ParseID(id); err != nil || state != Approved {
			return fmt.Errorf("%w: %q; 'workers list' shows those that dialed in", ErrNoWorker, id)
		}
		f.Workers = append(f.Workers, Enrolled{ID: id, State: state, First: now.UTC()})
		return nil
	})
}

// meet records a worker that was never seen before.
func (w *Workers) meet(id tunnel.ID, state string, now time.Time) error {
	return w.store.update(func(f *workerFile) error {
		waiting := 0
		for _, e := range f.Workers {
			if e.ID == id.String() {
				return nil
			}
			if e.State == Pending {
				waiting++
			}
		}
		if state == Pending && waiting >= pendingMax {
			return fmt.Errorf("%d workers wait for approval already", waiting)
		}
		f.Workers = append(f.Workers, Enrolled{ID: id.String(), State: state, First: now.UTC()})
		return nil
	})
}

// gate decides at every handshake whether a worker may come in.
type gate struct {
	workers *Workers
	auto    bool                                 // approve whoever comes
	states  atomic.Pointer[map[tunnel.ID]string] // replaced whole
	mu      sync.Mutex                           // one newcomer at a time
}

func (g *gate) reload() error {
	f, err := g.workers.store.load()
	if err != nil {
		return err
	}
	states := make(map[tunnel.ID]string, len(f.Workers))
	for _, e := range f.Workers {
		id, err := tunnel.ParseID(e.ID)
		if err != nil {
			return fmt.Errorf("%s: worker %q: %w", g.workers.store.path, e.ID, err)
		}
		states[id] = e.State
	}
	g.states.Store(&states)
	return nil
}

// admit is nil for approved workers. A newcomer is recorded, and admitted at once if enrolment is automatic.
func (g *gate) admit(id tunnel.ID) error {
	state, known := (*g.states.Load())[id]
	if !known {
		var err error
		if state, err = g.newcomer(id); err != nil {
			return err
		}
	}
	if state != Approved {
		return fmt.Errorf("%w: it is %s; the operator decides with 'cocoon-gateway workers approve %s'", errNotEnrolled, state, id)
	}
	return nil
}

func (g *gate) newcomer(id tunnel.ID) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if state, known := (*g.states.Load())[id]; known {
		return state, nil
	}
	state := Pending
	if g.auto {
		state = Approved
	}
	if err := g.workers.meet(id, state, time.Now()); err != nil {
		return "", fmt.Errorf("enrolling: %w", err)
	}
	if err := g.reload(); err != nil {
		return "", err
	}
	return (*g.states.Load())[id], nil
}
