package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Bounds of a JSON schema. Ollama makes a grammar of it, and beyond these its runner dies, with every other request on
// the model (all measured with 0.17.4, where ten times as much killed it); OpenAI's own are lower.
const (
	schemaMax      = 256 << 10 // bytes
	schemaDepthMax = 32        // schemas within schemas; 200 kill
	schemaNodesMax = 10_000    // schemas and enum values together
	repeatMax      = 1000      // minLength, maxLength, and a pattern's {n}; 10,000 kill
	itemsMax       = 2000      // minItems, maxItems
	patternMax     = 512       // bytes
)

// schemaCheck walks a schema.
type schemaCheck struct {
	root  map[string]any
	nodes int
}

// checkSchema refuses what would kill the engine: sizes beyond the bounds, and references that lead back to themselves
// without anything between.
func checkSchema(raw json.RawMessage) error {
	if len(raw) > schemaMax {
		return fmt.Errorf("it is longer than %d bytes", schemaMax)
	}
	c := new(schemaCheck)
	if json.Unmarshal(raw, &c.root) != nil {
		return errors.New("it is not an object")
	}
	return c.schema(c.root, 0)
}

// schema checks one schema and those within it.
func (c *schemaCheck) schema(v any, depth int) error {
	s, ok := v.(map[string]any)
	if !ok {
		return nil // true, false, and what is no schema
	}
	if depth > schemaDepthMax {
		return fmt.Errorf("it is nested deeper than %d", schemaDepthMax)
	}
	if err := c.count(1); err != nil {
		return err
	}
	if err := c.circle(s, map[string]bool{}); err != nil {
		return err
	}
	for key, value := range s {
		if err := c.keyword(key, value, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *schemaCheck) count(n int) error {
	if c.nodes += n; c.nodes > schemaNodesMax {
		return fmt.Errorf("it has more than %d parts", schemaNodesMax)
	}
	return nil
}

// keyword checks one keyword of a schema.
func (c *schemaCheck) keyword(key string, value any, depth int) error {
	switch key {
	case "minLength", "maxLength", "minProperties", "maxProperties":
		return inRange(key, value, repeatMax)
	case "minItems", "maxItems":
		return inRange(key, value, itemsMax)
	case "pattern":
		text, _ := value.(string)
		return checkPattern(text)
	case "enum":
		list, _ := value.([]any)
		if len(list) == 0 {
			return errors.New("enum is empty")
		}
		return c.count(len(list))
	case "anyOf", "oneOf", "allOf", "prefixItems":
		list, ok := value.([]any)
		if !ok || len(list) == 0 {
			return fmt.Errorf("%s must be an array that is not empty", key)
		}
		return c.each(list, depth)
	case "properties", "patternProperties", "$defs", "definitions":
		named, _ := value.(map[string]any)
		for _, v := range named {
			if err := c.schema(v, depth+1); err != nil {
				return err
			}
		}
	case "items":
		if list, ok := value.([]any); ok {
			return c.each(list, depth)
		}
		return c.schema(value, depth+1)
	case "const", "default", "examples":
	default:
		return c.schema(value, depth+1)
	}
	return nil
}

func (c *schemaCheck) each(list []any, depth int) error {
	for _, v := range list {
		if err := c.schema(v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// inRange checks a keyword that repeats something.
func inRange(key string, value any, limit float64) error {
	if n, ok := value.(float64); !ok || n < 0 || n > limit {
		return fmt.Errorf("%s must be a number from 0 to %g", key, limit)
	}
	return nil
}

// checkPattern bounds a pattern's length and what stands in its braces.
func checkPattern(pattern string) error {
	if len(pattern) > patternMax {
		return fmt.Errorf("a pattern is longer than %d bytes", patternMax)
	}
	for rest := pattern; ; {
		_, after, found := strings.Cut(rest, "{")
		if !found {
			return nil
		}
		n := 0
		for _, r := range after {
			switch {
			case r >= '0' && r <= '9':
				n = n*10 + int(r-'0')
			case r == ',':
				n = 0
			}
			if n > repeatMax {
				return fmt.Errorf("a pattern repeats something more than %d times", repeatMax)
			}
			if (r < '0' || r > '9') && r != ',' {
				break
			}
		}
		rest = after
	}
}

// circle follows references and alternatives, which consume nothing, and refuses those that come back.
func (c *schemaCheck) circle(s map[string]any, seen map[string]bool) error {
	if ref, ok := s["$ref"].(string); ok {
		if seen[ref] {
			return fmt.Errorf("the reference %.60q leads back to itself", ref)
		}
		target := c.resolve(ref)
		if target == nil {
			return fmt.Errorf("the reference %.60q leads nowhere; only those within the schema are followed", ref)
		}
		seen[ref] = true
		defer delete(seen, ref)
		if err := c.count(1); err != nil {
			return err
		}
		if err := c.circle(target, seen); err != nil {
			return err
		}
	}
	for _, key := range []string{"anyOf", "oneOf", "allOf"} {
		list, _ := s[key].([]any)
		for _, v := range list {
			if within, ok := v.(map[string]any); ok {
				if err := c.circle(within, seen); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// resolve follows a reference such as #/$defs/node (RFC 6901, without array indexes); nil if there is nothing.
func (c *schemaCheck) resolve(ref string) map[string]any {
	path, ok := strings.CutPrefix(ref, "#")
	if !ok {
		return nil
	}
	at := c.root
	if path == "" {
		return at
	}
	for _, step := range strings.Split(path, "/")[1:] {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		next, ok := at[step].(map[string]any)
		if !ok {
			return nil
		}
		at = next
	}
	return at
}
