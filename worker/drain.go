package worker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/config"
	"cocoon/internal/durable"
	"cocoon/internal/strictjson"
)

// Limits of the files that make a worker drain.
const (
	drainVersion = 1
	drainFileMax = 4 << 10 // bytes; they have some 80
	// drainGap is how often the command looks for the worker's answer.
	drainGap = 250 * time.Millisecond
	// drainProbe is after how long without news it looks whether the worker still runs.
	drainProbe = time.Second
	// drainPatience is how long a worker that runs may take to answer: several looks at its files.
	drainPatience = 10 * time.Second
)

var (
	// ErrNotRunning means that no worker runs on a data folder: it is safe to do with it whatever there is to do.
	ErrNotRunning = errors.New("no worker runs on this data_dir")
	// ErrNotDraining means that a worker takes requests again before it has finished those that ran.
	ErrNotDraining = errors.New("the worker takes requests again: the drain was undone, or it has started anew")
)

// drainMark is drain.json in the data folder: while it is there the worker takes nothing new.
type drainMark struct {
	V int `json:"v"`
	// ID tells marks apart.
	ID string `json:"id"`
}

// drainNews is draining.json in the data folder: what a worker that drains answers to a mark.
type drainNews struct {
	V       int    `json:"v"`
	ID      string `json:"id"` // of the mark
	Running int    `json:"running"`
	Waiting int    `json:"waiting"`
}

func drainPath(dataDir string) string    { return filepath.Join(dataDir, "drain.json") }
func drainingPath(dataDir string) string { return filepath.Join(dataDir, "draining.json") }
func lockPath(dataDir string) string     { return filepath.Join(dataDir, "lock") }

// readSmall reads a file of these; false if there is none.
func readSmall(path string, into any) (bool, error) {
	text, err := config.ReadFile(path, drainFileMax)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = strictjson.Decode(text, into)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

func writeSmall(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return durable.Replace(path, append(text, '\n'))
}

// readMark is the mark of a data folder; its ID is empty if there is none.
func readMark(dataDir string) (drainMark, error) {
	var m drainMark
	there, err := readSmall(drainPath(dataDir), &m)
	if there && (m.V != drainVersion || m.ID == "") {
		err = fmt.Errorf("%s: version %d, id %q", drainPath(dataDir), m.V, clip(m.ID))
	}
	return m, err
}

// clearDrain takes away what an earlier run has left: a worker that starts is meant to serve.
func clearDrain(dataDir string) error {
	for _, path := range []string{drainPath(dataDir), drainingPath(dataDir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("ending a drain: %w", err)
		}
	}
	return nil
}

// StartDrain has the worker of a data folder take nothing new, within a second or so, until EndDrain or its next start.
// What runs or waits there goes on.
func StartDrain(dataDir string) error {
	_, err := markDrain(dataDir)
	return err
}

// markDrain sets the mark and returns its ID; that of the mark which is there already, if one is.
func markDrain(dataDir string) (string, error) {
	if m, err := readMark(dataDir); err == nil && m.ID != "" {
		return m.ID, nil
	}
	m := drainMark{V: drainVersion, ID: rand.Text()}
	if err := writeSmall(drainPath(dataDir), m); err != nil {
		return "", fmt.Errorf("telling the worker to drain: %w", err)
	}
	return m.ID, nil
}

// EndDrain has the worker take requests again, within a second or so.
func EndDrain(dataDir string) error {
	if err := os.Remove(drainPath(dataDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("telling the worker to take requests again: %w", err)
	}
	return nil
}

// Drain is StartDrain, and waits until nothing runs or waits at the worker any more. say hears how much does, at first and
// whenever that changes. Errors: ErrNotRunning, also when the worker stops meanwhile; ErrNotDraining; the context's, and
// then the worker still drains; or that the worker does not answer.
func Drain(ctx context.Context, dataDir string, say func(running, waiting int)) error {
	if running, err := Running(dataDir); err != nil || !running {
		return errors.Join(err, notRunning(running))
	}
	id, err := markDrain(dataDir)
	if err != nil {
		return err
	}
	tick := time.NewTicker(drainGap)
	defer tick.Stop()
	var last drainNews
	began := time.Now()
	for heard := began; ; {
		news, err := readNews(dataDir, id)
		switch {
		case err != nil:
			return err
		case news != last:
			last, heard = news, time.Now()
			say(news.Running, news.Waiting)
			if news.Running == 0 && news.Waiting == 0 {
				return nil
			}
		case time.Since(heard) > drainProbe:
			heard = time.Now()
			if running, err := Running(dataDir); err != nil || !running {
				return errors.Join(err, notRunning(running))
			}
			if last.ID == "" && time.Since(began) > drainPatience {
				return errors.New("the worker runs, but does not answer: its log says why, unless it is of an older version")
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readNews is what the worker has answered to the mark of this ID; zero if it has not.
func readNews(dataDir, id string) (drainNews, error) {
	mark, err := readMark(dataDir)
	if err != nil {
		return drainNews{}, err
	}
	if mark.ID != id {
		return drainNews{}, ErrNotDraining
	}
	var news drainNews
	if _, err := readSmall(drainingPath(dataDir), &news); err != nil || news.ID != id {
		return drainNews{}, err
	}
	return news, nil
}

// Running tells whether a worker runs on a data folder.
func Running(dataDir string) (bool, error) {
	if _, err := os.Stat(lockPath(dataDir)); errors.Is(err, fs.ErrNotExist) {
		return false, nil // to look closer would make it
	}
	lock, err := durable.Lock(lockPath(dataDir))
	switch {
	case errors.Is(err, durable.ErrLocked):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("looking for a running worker: %w", err)
	}
	return false, lock.Close()
}

func notRunning(running bool) error {
	if running {
		return nil
	}
	return ErrNotRunning
}

// drainer is how the running worker stands with the mark.
type drainer struct {
	said drainNews
}

// look drains or undrains the worker as the mark wants it, and answers it.
func (d *drainer) look(w *Worker) error {
	mark, err := readMark(w.config.DataDir)
	if err != nil {
		return err
	}
	if on := mark.ID != ""; on != w.draining.Load() {
		w.drain(on)
	}
	if mark.ID == "" {
		if d.said == (drainNews{}) {
			return nil
		}
		d.said = drainNews{}
		return clearDrain(w.config.DataDir)
	}
	news := drainNews{V: drainVersion, ID: mark.ID}
	news.Running, news.Waiting = w.gate.load() // after the gate was shut: nobody comes in any more
	if news == d.said {
		return nil
	}
	if err := writeSmall(drainingPath(w.config.DataDir), news); err != nil {
		return fmt.Errorf("answering a drain: %w", err)
	}
	d.said = news
	return nil
}

// drain has requests refused, as those of a worker that is full, and gateways told to send none; or not any more.
func (w *Worker) drain(on bool) {
	w.draining.Store(on)
	w.gate.shutOut(on)
	w.board.drain(on)
	running, waiting := w.gate.load()
	if on {
		w.log.Info("worker drains: it takes nothing new", "running", running, "waiting", waiting)
	} else {
		w.log.Info("worker takes requests again")
	}
}
