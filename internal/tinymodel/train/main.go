// Command train makes the tiny model anew: 2,000 steps take 7 to 15 minutes on two cores.
//
//	go run cocoon/internal/tinymodel/train -steps 2000 -o tiny.gguf
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"cocoon/internal/tinymodel"
)

func main() { os.Exit(run()) }

func run() int {
	out := flag.String("o", "tiny.gguf", "file to write")
	steps := flag.Int("steps", 2000, "optimizer steps")
	seed := flag.Uint64("seed", 1, "of corpus, first weights and order")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	t := tinymodel.New(*seed)
	fmt.Printf("%d parameters, %d steps\n", t.Parameters(), *steps)
	begin := time.Now()
	err := t.Train(ctx, *steps, func(s tinymodel.Step) {
		if s.Number%100 == 0 || s.Number == *steps {
			fmt.Printf("step %d  loss %.4f  right %.2f %%  %d tokens  %s\n", s.Number, s.Loss,
				100*float64(s.Hits)/float64(s.Targets), s.Tokens, time.Since(begin).Round(time.Second))
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "train: stopped:", err)
		return 1
	}
	for _, q := range []string{
		"What is the capital of France?", "Count to 7.", "What is 3 plus 4?", "Repeat: river apple", "Tell me a joke.",
	} {
		fmt.Printf("%-32s %q\n", q, t.Answer(q, 64))
	}
	file := t.GGUF()
	if err := os.WriteFile(*out, file, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "train: writing the model:", err)
		return 1
	}
	fmt.Printf("%s: %d bytes, sha256 %x\n", *out, len(file), sha256.Sum256(file))
	return 0
}
