package engine

import (
	"strings"
	"unicode"
)

// quantizationOf finds the quantization in names of a model, the first that tells: in package offer's words, or "".
func quantizationOf(names ...string) string {
	for _, name := range names {
		if q := quantizationIn(name); q != "" {
			return q
		}
	}
	return ""
}

// quantizationIn finds it in one name, such as Qwen/Qwen3-32B-AWQ or qwen3-8b-Q4_K_M.gguf. A name with two that differ
// tells nothing. AWQ and GPTQ are names of methods, nearly always with 4 bits, and count only if nothing says better.
func quantizationIn(name string) string {
	found, method := "", ""
	for part := range strings.FieldsFuncSeq(strings.ToLower(name), func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		switch part {
		case "awq", "gptq":
			method = "int4"
			continue
		}
		q := quantizationWord(part)
		for word := range strings.SplitSeq(part, "_") { // of others than llama.cpp: model_fp8
			if q == "" {
				q = quantizationWord(word)
			}
		}
		switch {
		case q == "":
		case found != "" && found != q:
			return ""
		default:
			found = q
		}
	}
	if found == "" {
		return method
	}
	return found
}

// quantizationWord reads the name of one quantization, in small letters: llama.cpp's, as Ollama tells them too (q4_k_m),
// and those usual in names of models. There is no word for 5 and 6 bits of integers: int4 is the best of what they keep.
// Below 4 bits there is none that would be true.
func quantizationWord(word string) string {
	switch word {
	case "int4", "int8", "fp4", "fp6", "fp8", "fp16", "bf16", "fp32":
		return word
	case "4bit", "w4a16", "w4a8", "uint4":
		return "int4"
	case "8bit", "w8a8", "w8a16", "uint8":
		return "int8"
	case "mxfp4", "nvfp4", "mxfp4_moe":
		return "fp4"
	case "mxfp6":
		return "fp6"
	case "mxfp8", "f8_e4m3", "f8_e5m2":
		return "fp8"
	case "f16":
		return "fp16"
	case "f32":
		return "fp32"
	}
	bits := strings.TrimPrefix(strings.TrimPrefix(word, "i"), "q")
	if len(bits) == len(word) || !strings.HasPrefix(word, "q") && !strings.HasPrefix(word, "iq") {
		return ""
	}
	digit, kind, ok := strings.Cut(bits, "_")
	if !ok || kind == "" {
		return "" // q4 alone may be anything
	}
	switch digit {
	case "4", "5", "6":
		return "int4"
	case "8":
		return "int8"
	}
	return ""
}
