// Command build makes bin/ollama, the engine that tests and cocoon-dev use when there is no other.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"cocoon/internal/ollama"
)

func main() { os.Exit(run()) }

func run() int {
	bin := flag.String("bin", "bin", "folder for the binary")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path, err := ollama.Build(ctx, *bin, func(line string) { fmt.Fprintln(os.Stderr, line) })
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "build: stopped")
		return 1
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		return 1
	}
	fmt.Println(path)
	return 0
}
