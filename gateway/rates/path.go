package rates

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	pathMax = 16 // steps of a path
	stepMax = 64 // bytes of one
)

// errPath marks an answer that does not have what a path leads to.
var errPath = errors.New("the answer does not have the price where it should be")

// Path leads to a value in JSON.
type Path []string

// ParsePath reads steps with dots between them: the name of a member, or the index of an element if it is an array's.
// "data.0.last" is the member "last" of the first element of the member "data". A name with a dot can't be written.
func ParsePath(text string) (Path, error) {
	steps := strings.Split(text, ".")
	if len(steps) > pathMax {
		return nil, fmt.Errorf("%w: a path of %d steps, at most %d", ErrConfig, len(steps), pathMax)
	}
	for _, step := range steps {
		if step == "" || len(step) > stepMax {
			return nil, fmt.Errorf("%w: path %.200q, a step has 1 to %d bytes", ErrConfig, text, stepMax)
		}
	}
	return steps, nil
}

// Price reads the number that the path leads to in a JSON text, a number or a string with one, in millionths.
func (p Path) Price(text []byte) (int64, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // a price never becomes a float
	var value any
	if err := dec.Decode(&value); err != nil {
		return 0, fmt.Errorf("%w: it is no JSON", errPath)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("%w: something follows the JSON", errPath)
	}
	for _, step := range p {
		next, ok := any(nil), false
		switch v := value.(type) {
		case map[string]any:
			next, ok = v[step]
		case []any:
			if i, err := strconv.Atoi(step); err == nil && 0 <= i && i < len(v) {
				next, ok = v[i], true
			}
		}
		if !ok {
			return 0, fmt.Errorf("%w: no %q", errPath, step)
		}
		value = next
	}
	switch v := value.(type) {
	case json.Number:
		return ParseMicroUSD(v.String())
	case string:
		return ParseMicroUSD(v)
	}
	return 0, fmt.Errorf("%w: it is no number", errPath)
}
