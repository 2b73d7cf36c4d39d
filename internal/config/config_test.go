package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	for text, want := range map[string]string{
		"": "", "# nothing": "", "name: b\n---\nnmae: c": "a second document", "name: b\n---\nname: c": "a second document", "name: b": "", "nmae: b": "nmae", "name: [": "a.yaml", strings.Repeat("#", Max+1): "longer than",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		v := struct {
			Name string `yaml:"name"`
		}{"default"}
		err := Load(path, "sample.yaml", &v)
		switch {
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path)):
			t.Errorf("%.20q: %v, want %q and the file's name", text, err, want)
		case want == "" && err != nil:
			t.Errorf("%.20q: %v", text, err)
		case text == "" && v.Name != "default":
			t.Errorf("an empty file changed a default to %q", v.Name)
		}
	}
	if err := Load(path+"x", "sample.yaml", new(struct{})); err == nil || !strings.Contains(err.Error(), "sample.yaml") {
		t.Errorf("missing file: %v, want it to name the sample", err)
	}
}
