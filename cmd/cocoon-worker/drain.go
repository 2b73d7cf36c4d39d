package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"cocoon/internal/daemon"
	"cocoon/worker"
)

const drainUsage = `usage: cocoon-worker drain [--no-wait] [--config worker.yaml]
       cocoon-worker drain --undo [--config worker.yaml]

Before you stop the worker, its engine or the machine: the running worker finishes what it has begun and takes nothing new.
The command waits until nothing runs any more, then says that it is safe to stop. --no-wait does not wait. --undo has the
worker take requests again, and so does its next start.
`

// drain is the command.
func drain(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("cocoon-worker drain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, drainUsage) }
	path := flags.String("config", "worker.yaml", "configuration `file`")
	noWait := flags.Bool("no-wait", false, "don't wait until nothing runs")
	undo := flags.Bool("undo", false, "take requests again")
	if exit, ok := parse(flags, args, drainUsage); !ok {
		return exit
	}
	ctx, stop := daemon.Context()
	defer stop()
	config, err := worker.LoadConfig(*path)
	if err == nil {
		err = drainWorker(ctx, config.DataDir, drainHow{undo: *undo, wait: !*noWait}, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "cocoon-worker:", err)
		return exitFailed
	}
	return exitOK
}

// drainHow is what is wanted of a drain.
type drainHow struct{ undo, wait bool }

// drainWorker drains the worker of a data folder, or undoes that, and says how it goes.
func drainWorker(ctx context.Context, dataDir string, how drainHow, stdout io.Writer) error {
	running, err := worker.Running(dataDir)
	switch {
	case err != nil:
		return err
	case !running:
		fmt.Fprintf(stdout, "%v: nothing to stop, and the next start takes requests\n", worker.ErrNotRunning)
		return worker.EndDrain(dataDir)
	case how.undo:
		if err := worker.EndDrain(dataDir); err != nil {
			return err
		}
		fmt.Fprintln(stdout, "the worker takes requests again, within a second")
		return nil
	case !how.wait:
		if err := worker.StartDrain(dataDir); err != nil {
			return err
		}
		fmt.Fprintln(stdout, "the worker takes nothing new, within a second, and finishes what runs; 'cocoon-worker drain' waits for that")
		return nil
	}
	fmt.Fprintln(stdout, "the worker is told to take nothing new")
	err = worker.Drain(ctx, dataDir, func(running, waiting int) {
		if running+waiting > 0 {
			fmt.Fprintln(stdout, stillThere(running, waiting))
		}
	})
	switch {
	case errors.Is(err, worker.ErrNotRunning):
		fmt.Fprintln(stdout, "the worker has stopped meanwhile")
		return nil
	case ctx.Err() != nil:
		return errors.New("not waited for the end; the worker still drains, until 'cocoon-worker drain --undo' or its next start")
	case err != nil:
		return err
	}
	fmt.Fprintln(stdout, "nothing runs any more: it is safe to stop the worker")
	return nil
}

// stillThere is what a worker that drains still has to do, in words.
func stillThere(running, waiting int) string {
	text := fmt.Sprintf("%d requests still run", running)
	if running == 1 {
		text = "1 request still runs"
	}
	switch {
	case waiting == 1:
		text += ", and 1 waits for its turn"
	case waiting > 1:
		text += fmt.Sprintf(", and %d wait for their turn", waiting)
	}
	return text
}
