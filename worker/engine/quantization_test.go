package engine

import (
	"testing"

	"cocoon/router/offer"
	"cocoon/worker/engine/enginetest"
)

func TestQuantizationOf(t *testing.T) {
	for name, want := range map[string]string{
		"": "", "llama3.2:3b": "", "org/model-7b": "", "gpt-oss:20b": "", "qwen3_8b": "", "report-q4": "", "iq4": "", "q9_0": "",
		"Qwen/Qwen3-32B-AWQ": "int4", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8": "int8", "m-GPTQ-Int4": "int4", "m-AWQ-8bit": "int8",
		"RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic": "fp8", "RedHatAI/m-quantized.w4a16": "int4", "RedHatAI/m-quantized.w8a8": "int8",
		"nvidia/m-NVFP4": "fp4", "lmstudio/m-MLX-4bit": "int4", "m-bf16": "bf16", "m_fp16": "fp16", "m.F32.gguf": "fp32",
		"/models/Qwen3-8B-Q4_K_M.gguf": "int4", "ggml-org/gemma-3-4b-it-GGUF:Q8_0": "int8", "m-UD-Q4_K_XL": "int4", "m-IQ4_XS.gguf": "int4",
		"m.Q5_K_S.gguf": "int4", "m-Q6_K": "int4", "m-Q3_K_L": "", "m-IQ2_XXS": "", "m-TQ1_0": "",
		"m-NVFP4-FP8": "", // which of them?
	} {
		got := quantizationOf("", name, "other-fp32")
		if want == "" {
			want = "fp32"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	for level, want := range map[string]string{
		"q4_0": "int4", "q4_k_m": "int4", "iq4_nl": "int4", "q5_1": "int4", "q6_k": "int4", "q8_0": "int8", "f16": "fp16", "bf16": "bf16",
		"f32": "fp32", "mxfp4": "fp4", "nvfp4": "fp4", "mxfp8": "fp8", "q2_k": "", "iq1_s": "", "unknown": "", "": "",
	} {
		if got := quantizationWord(level); got != want || got != "" && !offer.ValidQuantization(got) {
			t.Errorf("%q: %q, want %q", level, got, want)
		}
	}
}

// TestQuantizationTold is where each engine tells it.
func TestQuantizationTold(t *testing.T) {
	for _, c := range []struct {
		flavour              enginetest.Flavour
		model, weights, told string
		want                 string
	}{
		{enginetest.VLLM, "m", "Qwen/Qwen3-32B-AWQ", "", "int4"},
		{enginetest.VLLM, "m-fp8", "/weights", "", "fp8"},
		{enginetest.VLLM, "m", "", "", ""},
		{enginetest.SGLang, "m-fp8", "", "", "fp8"},
		{enginetest.LlamaCpp, "m", "/models/m-Q8_0.gguf", "", "int8"},
		{enginetest.Plain, "m-int4", "", "", "int4"},
		{enginetest.Ollama, "m-fp16", "", "Q8_0", "int8"}, // it is told, not guessed
		{enginetest.Ollama, "m", "", "Q2_K", ""},
		{enginetest.Ollama, "m", "", "MXFP4", "fp4"},
	} {
		fake := enginetest.New()
		fake.Flavour, fake.Models, fake.Weights, fake.Quantization = c.flavour, []string{c.model}, c.weights, c.told
		s, err := start(t, fake, Config{}).Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Models[0].Quantization; got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
