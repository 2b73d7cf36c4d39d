package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/sashabaranov/go-openai"
)

// keyFileMax bounds a key file: it holds one line.
const keyFileMax = 4096

// emptyLinesMax is how many blank lines and comments in a row the client takes for a live stream. A gateway sends a
// comment every few seconds while it waits, for minutes on end.
const emptyLinesMax = 100_000

// account is where the gateway is and who asks.
type account struct{ baseURL, keyFile string }

func (a *account) flags(fs *flag.FlagSet) {
	fs.StringVar(&a.baseURL, "base-url", os.Getenv("OPENAI_BASE_URL"), "")
	fs.StringVar(&a.keyFile, "key-file", "", "")
}

// client is an OpenAI client of the gateway. The errors say what to set.
func (a *account) client() (*openai.Client, error) {
	if a.baseURL == "" {
		return nil, fmt.Errorf("no gateway: set OPENAI_BASE_URL or --base-url: %w", errUsage)
	}
	u, err := url.Parse(a.baseURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("gateway %q is not a URL such as http://127.0.0.1:8080/v1: %w", a.baseURL, errUsage)
	}
	key, err := a.key()
	if err != nil {
		return nil, err
	}
	cfg := openai.DefaultConfig(key)
	cfg.BaseURL = strings.TrimRight(a.baseURL, "/")
	cfg.EmptyMessagesLimit = emptyLinesMax
	return openai.NewClientWithConfig(cfg), nil
}

func (a *account) key() (string, error) {
	if a.keyFile == "" {
		if key := os.Getenv("OPENAI_API_KEY"); key != "" {
			return key, nil
		}
		return "", fmt.Errorf("no API key: set OPENAI_API_KEY or --key-file: %w", errUsage)
	}
	f, err := os.Open(a.keyFile)
	if err != nil {
		return "", fmt.Errorf("opening the key file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, keyFileMax))
	if err != nil {
		return "", fmt.Errorf("reading the key file: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" || strings.ContainsAny(key, " \t\r\n") {
		return "", fmt.Errorf("%s does not hold one API key and nothing else", a.keyFile)
	}
	return key, nil
}

// plain says what went wrong in words for a person; the SDK's error says it with its own wrapping around.
func plain(err error) error {
	if api, ok := errors.AsType[*openai.APIError](err); ok {
		if api.HTTPStatusCode != 0 {
			return fmt.Errorf("the gateway answered %d: %s", api.HTTPStatusCode, api.Message)
		}
		return fmt.Errorf("the answer failed: %s", api.Message)
	}
	if req, ok := errors.AsType[*openai.RequestError](err); ok {
		return fmt.Errorf("the gateway answered %d, and not in OpenAI's words: is the base URL right?", req.HTTPStatusCode)
	}
	if sent, ok := errors.AsType[*url.Error](err); ok {
		if errors.Is(err, context.Canceled) {
			return context.Canceled
		}
		return fmt.Errorf("reaching the gateway: %w", sent.Err)
	}
	return err
}

func modelsCommand(args []string, std streams) error {
	var a account
	fs := flag.NewFlagSet("models", flag.ContinueOnError)
	a.flags(fs)
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("models takes no arguments: %w", errUsage)
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	list, err := client.ListModels(ctx)
	if err != nil {
		return plain(err)
	}
	if len(list.Models) == 0 {
		return errors.New("no model is served right now: no worker is connected")
	}
	for _, m := range list.Models {
		fmt.Fprintln(std.out, m.ID)
	}
	return nil
}
