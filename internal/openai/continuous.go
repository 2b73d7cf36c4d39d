package openai

// WithContinuousUsage is WithUsage, and asks for the counts so far in every event besides: at most 75 bytes longer. It
// is for engines that know continuous_usage_stats. A client's own value of it comes later in the body, and counts.
func (h *Head) WithContinuousUsage(body []byte) []byte {
	h.check(body)
	const continuous = `"continuous_usage_stats":true`
	switch {
	case !h.Stream:
	case h.options.start == 0:
		body = h.add(body, `,"stream_options":{"include_usage":true,`+continuous+`}`, &h.options)
		h.forced = true
	case h.optionsNull:
		h.optionsNull = false
		body = h.splice(body, h.options, `{"include_usage":true,`+continuous+`}`)
		h.forced = true
	default:
		in := span{h.options.start + 1, h.options.start + 1}
		if h.optionsBare {
			h.optionsBare = false
			body = h.splice(body, in, continuous)
		} else {
			body = h.splice(body, in, continuous+",")
		}
	}
	return h.WithUsage(body)
}

// AppendWithoutUsage appends the event that c was read from with null in the place of its usage object, if it has one.
func (c *Chunk) AppendWithoutUsage(b, data []byte) []byte {
	if !c.HasUsage {
		return append(b, data...)
	}
	b = append(append(b, data[:c.usage.start]...), "null"...)
	return append(b, data[c.usage.end:]...)
}
