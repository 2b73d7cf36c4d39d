package engine

import (
	"strings"
	"testing"
)

func TestCheckSchema(t *testing.T) {
	for schema, want := range map[string]string{
		`{"type":"object","properties":{"maxLength":{"type":"string","maxLength":1000}},"required":["maxLength"]}`:        "",
		`{"type":"array","minItems":1500,"items":{"enum":["alpha","beta"]}}`:                                              "",
		`{"$defs":{"node":{"type":"object","properties":{"next":{"$ref":"#/$defs/node"}}}},"$ref":"#/$defs/node"}`:        "",
		`{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}],"$defs":{"a":{"type":"string","pattern":"^[a-z]{2,20}$"}}}`: "",
		`{"const":{"maxLength":99999},"default":{"anyOf":[]}}`:                                                            "",
		`{"maxLength":10000}`: "maxLength", `{"minLength":-5}`: "minLength", `{"items":{"maxItems":1000000000}}`: "maxItems",
		`{"anyOf":[]}`: "anyOf", `{"properties":{"x":{"oneOf":[]}}}`: "oneOf", `{"enum":[]}`: "enum",
		`{"$defs":{"a":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}`:                                      "leads back",
		`{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}`: "leads back",
		`{"$ref":"#"}`: "leads back", `{"$ref":"http://example.com/x"}`: "nowhere", `{"$ref":"#/$defs/none"}`: "nowhere",
		`{"pattern":"^a{1000000}$"}`: "repeats", `{"pattern":"^(ab){5,99999}$"}`: "repeats",
		`{"pattern":"` + strings.Repeat("a", 513) + `"}`:                   "longer",
		strings.Repeat(`{"items":`, 200) + `{}` + strings.Repeat(`}`, 200): "nested",
		`{"enum":["` + strings.Repeat(`a","`, 20_000) + `a"]}`:             "parts",
		`{"x":"` + strings.Repeat("a", schemaMax) + `"}`:                   "longer",
		`[]`: "object",
	} {
		err := checkSchema([]byte(schema))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.120s: %v, want %q", schema, err, want)
		}
	}
}

// FuzzCheckSchema checks that no schema hangs or panics.
func FuzzCheckSchema(f *testing.F) {
	f.Add([]byte(`{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}`))
	f.Add([]byte(`{"pattern":"{{,}}{9","items":[{"enum":[1]}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = checkSchema(b) })
}
