// Package engine drives the inference server beside a worker: Ollama by its native API, and any server that speaks
// OpenAI's chat completions.
//
// To OpenAI-compatible engines requests pass byte for byte, except for the model's name,
// stream_options.include_usage (for vLLM and SGLang continuous_usage_stats too) and cache_salt, by which vLLM (from 0.11
// on) and SGLang (from 0.5.3 on) keep tenants' prompts apart in their caches. So do answers, except that usage comes in an
// event of its own at the end. For Ollama they are translated, and a field that Ollama would ignore
// although it changes the answer is refused with 400 and code unsupported_parameter:
//
//	field                                        what becomes of it
//	-----                                        ------------------
//	model                                        the engine's name for it
//	messages                                     system, developer (as system), user, assistant, tool; other roles: 400.
//	                                             Parts: text (joined by line breaks), refusal, image_url as data: URL if the
//	                                             model sees, else 400; input_audio, file and others: 400.
//	                                             reasoning or reasoning_content of an assistant goes back as thoughts; name
//	                                             counts for tool messages only
//	stream, stream_options                       Ollama always streams; usage is always sent to the gateway
//	n                                            1, else 400
//	max_completion_tokens, max_tokens            num_predict, at most the window; the window if not given
//	temperature, top_p                           as they are, 1.0 if not given (Ollama's own defaults are 0.8 and 0.9); a
//	                                             temperature below 0.001 is 0
//	frequency_penalty, presence_penalty, seed    as they are
//	top_k, min_p, repetition_penalty,            as they are; if not given, the model's own
//	  repeat_penalty
//	stop                                         at most 16, added to the model's own
//	logprobs, top_logprobs                       as they are
//	response_format                              json_object: any JSON; json_schema: by grammar (strict or not), within
//	                                             bounds (schema.go), else 400; text
//	tools                                        functions, if the model can, else 400; strict is ignored
//	tool_choice                                  auto; none drops the tools; required or a name: 400
//	parallel_tool_calls                          true; false with tools: 400
//	reasoning_effort, reasoning.effort           none: no thoughts (gpt-oss: 400); others: thoughts, with a level for gpt-oss;
//	                                             400 if the model can't think; not given: models that can think do
//	verbosity, modalities                        medium and ["text"], else 400
//	logit_bias, functions, function_call,        400
//	  audio, web_search_options, moderation,
//	  guided_*, structured_outputs, regex, ebnf,
//	  grammar, chat_template, think, options and
//	  other extras of engines that change answers
//	user, metadata, store, service_tier,         ignored, as are all fields not named here. num_ctx, num_thread and
//	  prediction, safety_identifier,             keep_alive would make Ollama load the model again and can't be set
//	  prompt_cache_key and so on
//
// The answer's fields are OpenAI's; thoughts come as reasoning, beside content. Usage is what the engine counted, or
// the pieces streamed if those are more. Cached tokens are not told by Ollama.
package engine
