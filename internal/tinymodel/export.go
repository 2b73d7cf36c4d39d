package tinymodel

// chatTemplate is the model's chat format for engines that read templates from the file (Jinja).
const chatTemplate = `{%- if tools or messages[0]['role'] == 'system' -%}
<|im_start|>system
{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% if tools %}{{ '\n' }}{% endif %}{% endif %}
{%- if tools -%}
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>
{%- endif -%}
<|im_end|>
{% endif -%}
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}
<|im_start|>user
{{ m['content'] }}<|im_end|>
{% elif m['role'] == 'assistant' -%}
<|im_start|>assistant
{{ m['content'] or '' }}
{%- for c in m['tool_calls'] or [] -%}
<tool_call>
{"name": "{{ c['function']['name'] }}", "arguments": {{ c['function']['arguments'] | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% elif m['role'] == 'tool' -%}
<|im_start|>user
<tool_response>
{{ m['content'] }}
</tool_response><|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}`

// GGUF is the model as a file for inference engines.
func (t *Tiny) GGUF() []byte { return appendWeights(t.header(), t.model.params) }

func (t *Tiny) header() []byte {
	k := t.tok
	return ggufHeader([]field{
		{"general.architecture", "llama"},
		{"general.name", "tiny"},
		{"general.file_type", uint32(1)}, // mostly half precision
		{"general.quantization_version", uint32(2)},
		{"llama.block_count", uint32(layerCount)},
		{"llama.context_length", uint32(contextLen)},
		{"llama.embedding_length", uint32(dim)},
		{"llama.feed_forward_length", uint32(ffDim)},
		{"llama.attention.head_count", uint32(headCount)},
		{"llama.attention.head_count_kv", uint32(headCount)},
		{"llama.attention.layer_norm_rms_epsilon", float32(normEps)},
		{"llama.rope.freq_base", float32(ropeBase)},
		{"llama.rope.dimension_count", uint32(headDim)},
		{"llama.vocab_size", uint32(len(k.tokens))},
		{"tokenizer.ggml.model", "gpt2"},
		{"tokenizer.ggml.pre", "llama-bpe"},
		{"tokenizer.ggml.tokens", k.tokens},
		{"tokenizer.ggml.token_type", k.types},
		{"tokenizer.ggml.merges", k.merges},
		{"tokenizer.ggml.bos_token_id", uint32(k.ids[beginOfText])},
		{"tokenizer.ggml.eos_token_id", uint32(k.ids[endOfTurn])},
		{"tokenizer.ggml.padding_token_id", uint32(k.ids[beginOfText])},
		{"tokenizer.ggml.add_bos_token", false},
		{"tokenizer.chat_template", chatTemplate},
	}, t.model.params)
}
