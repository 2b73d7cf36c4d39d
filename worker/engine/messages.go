package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cocoon/internal/openai"
)

// messagesMax bounds a conversation: far above any, and it keeps a small body from becoming large structures.
const messagesMax = 1 << 16

// clientMessage is a message as OpenAI has it.
type clientMessage struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Name       string          `json:"name"`
	ToolCallID string          `json:"tool_call_id"`
	ToolCalls  []struct {
		ID       string `json:"id"`
		Type     string `json:"type"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
	FunctionCall json.RawMessage `json:"function_call"`
	Audio        json.RawMessage `json:"audio"`
	// The thoughts of an earlier answer, as engines name them.
	Reasoning        string `json:"reasoning"`
	ReasoningContent string `json:"reasoning_content"`
}

func takeMessages(t *translation, raw json.RawMessage) error {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) > messagesMax {
		return openai.BadRequest("messages", "messages must be an array of at most %d messages.", messagesMax)
	}
	called := make(map[string]string) // name of the function by the call's id
	for i, raw := range list {
		param := fmt.Sprintf("messages[%d]", i)
		var m clientMessage
		if len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, &m) != nil {
			return openai.BadRequest(param, "%s is not a message.", param)
		}
		out, err := t.message(param, &m, called)
		if err != nil {
			return err
		}
		t.out.Messages = append(t.out.Messages, out)
	}
	return nil
}

// message translates one message; calls of an assistant are added to called.
func (t *translation) message(param string, m *clientMessage, called map[string]string) (api.Message, error) {
	out := api.Message{Role: m.Role}
	if m.FunctionCall != nil && string(m.FunctionCall) != "null" || m.Audio != nil && string(m.Audio) != "null" {
		return out, unsupported(param, "has a function_call or audio, which this model can't use")
	}
	switch m.Role {
	case "developer":
		out.Role = "system"
	case "system", "user":
	case "assistant":
		out.Thinking = m.Reasoning
		if out.Thinking == "" {
			out.Thinking = m.ReasoningContent
		}
		if err := takeCalls(param, m, &out, called); err != nil {
			return out, err
		}
	case "tool":
		out.ToolCallID = m.ToolCallID
		if out.ToolName = m.Name; out.ToolName == "" {
			out.ToolName = called[m.ToolCallID]
		}
	default:
		return out, openai.BadRequest(param+".role", "%s.role must be system, developer, user, assistant or tool.", param)
	}
	if m.Content == nil || string(m.Content) == "null" {
		if len(out.ToolCalls) == 0 {
			return out, openai.BadRequest(param+".content", "%s has no content.", param)
		}
		return out, nil
	}
	return out, t.content(param, m.Content, &out)
}

// takeCalls translates an assistant's calls. Arguments are text for OpenAI and an object for Ollama.
func takeCalls(param string, m *clientMessage, out *api.Message, called map[string]string) error {
	for j, c := range m.ToolCalls {
		if c.Type != "" && c.Type != "function" || c.Function.Name == "" {
			return openai.BadRequest(param+".tool_calls", "%s.tool_calls[%d] must be a function call with a name.", param, j)
		}
		call := api.ToolCall{ID: c.ID, Function: api.ToolCallFunction{Index: j, Name: c.Function.Name}}
		args := bytes.TrimSpace([]byte(c.Function.Arguments))
		if len(args) == 0 {
			args = []byte("{}") // what models send for a function without parameters
		}
		if args[0] != '{' || !json.Valid(args) || json.Unmarshal(args, &call.Function.Arguments) != nil {
			return openai.BadRequest(param+".tool_calls", "%s.tool_calls[%d].function.arguments is not a JSON object.", param, j)
		}
		out.ToolCalls = append(out.ToolCalls, call)
		called[c.ID] = c.Function.Name
	}
	return nil
}

// content takes text, or parts of text and images. Several texts are joined by a line break, as vLLM and llama.cpp do.
func (t *translation) content(param string, raw json.RawMessage, out *api.Message) error {
	if json.Unmarshal(raw, &out.Content) == nil {
		return nil
	}
	var parts []struct {
		Type     string          `json:"type"`
		Text     *string         `json:"text"`
		Refusal  *string         `json:"refusal"`
		ImageURL json.RawMessage `json:"image_url"`
	}
	if json.Unmarshal(raw, &parts) != nil || len(parts) == 0 {
		return openai.BadRequest(param+".content", "%s.content must be a string or an array of parts.", param)
	}
	var texts []string
	for j, p := range parts {
		switch {
		case p.Type == "text" && p.Text != nil:
			texts = append(texts, *p.Text)
		case p.Type == "refusal" && p.Refusal != nil:
			texts = append(texts, *p.Refusal)
		case p.Type == "image_url":
			if !t.can(model.CapabilityVision) {
				return unsupported(param+".content", "has an image, which this model can't see")
			}
			img, err := image(fmt.Sprintf("%s.content[%d].image_url", param, j), p.ImageURL)
			if err != nil {
				return err
			}
			out.Images = append(out.Images, img)
		case p.Type == "input_audio" || p.Type == "file" || p.Type == "video_url":
			return unsupported(param+".content", "has a part of a type that this model can't use")
		default:
			return openai.BadRequest(param+".content", "%s.content[%d] is not a part of type text or image_url.", param, j)
		}
	}
	out.Content = strings.Join(texts, "\n")
	return nil
}

// image decodes a data: URL. Other URLs are refused: a worker fetches nothing that a client names.
func image(param string, raw json.RawMessage) ([]byte, error) {
	var url string
	var object struct {
		URL string `json:"url"`
	}
	if json.Unmarshal(raw, &object) == nil {
		url = object.URL
	} else if json.Unmarshal(raw, &url) != nil {
		return nil, openai.BadRequest(param, "%s must be an object with a url.", param)
	}
	media, data, ok := strings.Cut(url, ";base64,")
	types := []string{"data:", "data:image/png", "data:image/jpeg", "data:image/jpg", "data:image/webp"}
	if !ok || !slices.Contains(types, media) {
		return nil, openai.BadRequest(param, "%s must be a data: URL with a PNG, JPEG or WebP image in base64.", param)
	}
	img, err := base64.StdEncoding.DecodeString(data)
	if err != nil || len(img) == 0 {
		return nil, openai.BadRequest(param, "%s holds no base64.", param)
	}
	return img, nil
}
