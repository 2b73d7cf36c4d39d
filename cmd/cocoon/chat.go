package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sashabaranov/go-openai"

	"cocoon/internal/terminal"
)

// promptMax bounds a prompt, bytes: what a gateway takes as one request.
const promptMax = 32 << 20

// chat is one conversation.
type chat struct {
	client  *openai.Client
	model   string
	heat    float32 // temperature; below 0 the model's default
	history []openai.ChatCompletionMessage
	out     io.Writer // answers
	err     io.Writer // remarks
}

func chatCommand(args []string, std streams) error {
	var a account
	c := &chat{out: std.out, err: std.err}
	fs := flag.NewFlagSet("chat", flag.ContinueOnError)
	a.flags(fs)
	fs.StringVar(&c.model, "model", "", "")
	heat := fs.Float64("temperature", -1, "")
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	c.heat = float32(*heat)
	if terminal.Is(std.out) {
		c.out = terminal.Writer(std.out)
	}
	var err error
	if c.client, err = a.client(); err != nil {
		return err
	}
	prompt := strings.Join(fs.Args(), " ")
	if prompt == "" && !terminal.Is(std.in) {
		if prompt, err = readPrompt(std.in); err != nil {
			return err
		}
	}
	if err := c.chooseModel(); err != nil {
		return err
	}
	if prompt == "" {
		return c.converse(std.in)
	}
	return c.ask(prompt)
}

func readPrompt(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, promptMax+1))
	if err != nil {
		return "", fmt.Errorf("reading the prompt: %w", err)
	}
	if len(text) > promptMax {
		return "", fmt.Errorf("the prompt is longer than %d MiB", promptMax>>20)
	}
	prompt := strings.TrimRight(string(text), "\r\n")
	if prompt == "" {
		return "", fmt.Errorf("empty prompt: %w", errUsage)
	}
	return prompt, nil
}

// chooseModel takes the first model that is served, unless the user named one.
func (c *chat) chooseModel() error {
	if c.model != "" {
		return nil
	}
	ctx, stop := interruptible()
	defer stop()
	list, err := c.client.ListModels(ctx)
	if err != nil {
		return plain(err)
	}
	if len(list.Models) == 0 {
		return errors.New("no model is served right now: no worker is connected")
	}
	c.model = list.Models[0].ID
	return nil
}

// converse asks what the user types, line by line, until the input ends. A failed answer does not end it.
func (c *chat) converse(in io.Reader) error {
	fmt.Fprintf(c.err, "model %s; Ctrl-C stops an answer, Ctrl-D ends\n", terminal.Clean(c.model))
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, promptMax)
	for {
		fmt.Fprint(c.err, "> ")
		if !lines.Scan() {
			fmt.Fprintln(c.err)
			return lines.Err()
		}
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		switch err := c.ask(line); {
		case errors.Is(err, context.Canceled):
			fmt.Fprintln(c.err, "(stopped)")
		case err != nil:
			fmt.Fprintln(c.err, "cocoon:", err)
		}
	}
}

// ask prints the answer to one prompt as it comes, and remembers both if it came whole.
func (c *chat) ask(prompt string) error {
	ctx, stop := interruptible()
	defer stop()
	messages := append(c.history, openai.ChatCompletionMessage{Role: openai.ChatMessageRoleUser, Content: prompt})
	stream, err := c.client.CreateChatCompletionStream(ctx, openai.ChatCompletionRequest{
		Model: c.model, Messages: messages, Stream: true, Temperature: c.temperature(),
	})
	if err != nil {
		return plain(err)
	}
	defer stream.Close()
	answer, err := c.print(stream)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return plain(err)
	}
	c.history = append(messages, openai.ChatCompletionMessage{Role: openai.ChatMessageRoleAssistant, Content: answer})
	return nil
}

// temperature is what the client library leaves out of the request if it is 0.
func (c *chat) temperature() float32 {
	if c.heat == 0 {
		return math.SmallestNonzeroFloat32
	}
	return max(c.heat, 0)
}

// print copies a stream's text out. A stream without a finish is an error, whatever came before.
func (c *chat) print(stream *openai.ChatCompletionStream) (string, error) {
	var answer strings.Builder
	finish := openai.FinishReason("")
	for {
		event, err := stream.Recv()
		if err != nil {
			if answer.Len() > 0 {
				fmt.Fprintln(c.out)
			}
			switch {
			case !errors.Is(err, io.EOF):
				return "", err
			case finish == "":
				return "", errors.New("the answer ended too early: the connection was lost")
			case finish == openai.FinishReasonLength:
				fmt.Fprintln(c.err, "(cut: the model's window or the token limit is full)")
			}
			return answer.String(), nil
		}
		for _, choice := range event.Choices {
			answer.WriteString(choice.Delta.Content)
			if _, err := io.WriteString(c.out, choice.Delta.Content); err != nil {
				return "", fmt.Errorf("writing the answer: %w", err)
			}
			if choice.FinishReason != "" {
				finish = choice.FinishReason
			}
		}
	}
}

// interruptible is a context that Ctrl-C ends; after stop Ctrl-C ends the program again.
func interruptible() (ctx context.Context, stop context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}
