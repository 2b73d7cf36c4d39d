package ollama

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// header is a C or C++ header that Ollama's module lacks, because Go leaves every vendor folder below another one
// out of a module. Two other modules have them.
type header struct {
	to     string // below the include folder
	module string // module@version; "" for text
	sum    string // the module's go.sum hash
	from   string // path in the module
	text   string // the content itself, where no module has it
}

const (
	olderOllama    = "github.com/ollama/ollama@v0.6.5" // the last one with the headers in another place
	olderOllamaSum = "h1:vXKkVX57ql/1ZzMw4SVK866Qfd6pjwEcITVyEpF0QXQ="
	malgo          = "github.com/gen2brain/malgo@v0.11.24"
	malgoSum       = "h1:hHcIJVfzWcEDHFdPl5Dl/CUSOjzOleY0zzAV8Kx+imE="
)

func headers() []header {
	return []header{
		{to: "nlohmann/json.hpp", module: olderOllama, sum: olderOllamaSum, from: "llama/llama.cpp/common/json.hpp"},
		{to: "nlohmann/json_fwd.hpp", text: "#pragma once\n#include <nlohmann/json.hpp>\n"},
		{to: "stb/stb_image.h", module: olderOllama, sum: olderOllamaSum, from: "llama/llama.cpp/common/stb_image.h"},
		{to: "miniaudio/miniaudio.h", module: malgo, sum: malgoSum, from: "miniaudio.h"},
	}
}

// fetchHeaders fills the include folder. It is in the user's cache and not in the clone: its path is a compiler
// flag, so with one path Go's build cache serves all clones.
func (b *builder) fetchHeaders(ctx context.Context) error {
	folders := map[string]string{}
	for _, h := range headers() {
		content := []byte(h.text)
		if h.module != "" {
			if folders[h.module] == "" {
				folder, err := b.download(ctx, h.module, h.sum)
				if err != nil {
					return err
				}
				folders[h.module] = folder
			}
			var err error
			if content, err = os.ReadFile(filepath.Join(folders[h.module], h.from)); err != nil {
				return err
			}
		}
		if err := place(filepath.Join(b.include, h.to), content); err != nil {
			return err
		}
	}
	return nil
}

// download returns the folder of a module in Go's module cache, its content checked against sum.
func (b *builder) download(ctx context.Context, module, sum string) (string, error) {
	// GOSUMDB: the sum below is pinned here, no database is needed for it.
	env := append(b.env(), "GOFLAGS=-mod=mod", "GOSUMDB=off")
	out, err := (&command{
		dir: b.module, env: env, args: []string{"go", "mod", "download", "-json", module}, say: b.say,
		tick: func() string { return "fetching " + module },
	}).run(ctx)
	var got struct{ Dir, Sum, Error string }
	if f, failed := errors.AsType[*failure](err); failed && json.Unmarshal(out, &got) == nil && got.Error != "" {
		f.tail = append(f.tail, got.Error)
	}
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(out, &got); err != nil {
		return "", fmt.Errorf("reading go mod download: %w", err)
	}
	if got.Sum != sum {
		return "", fmt.Errorf("%s has the sum %s, want %s: don't trust this module proxy", module, got.Sum, sum)
	}
	return got.Dir, nil
}

// place writes a file unless it is there with the same content. Another process may read it at the same time.
func place(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
