package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	official "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/sashabaranov/go-openai"
)

// The one tool of the tests.
const (
	toolName  = "get_weather"
	toolAbout = "Get the weather in a city"
	toolArgs  = `{"city":"Paris"}`
)

func toolSchema() map[string]any {
	return map[string]any{
		"type": "object", "required": []string{"city"},
		"properties": map[string]any{"city": map[string]any{"type": "string"}},
	}
}

// goOpenAISDK is github.com/sashabaranov/go-openai. It does not tell the request id of an error.
func goOpenAISDK() sdk {
	return sdk{
		name: "go-openai", ask: oneByOne(goOpenAI), pieces: true,
		class: func(int) string { return "*openai.APIError" },
	}
}

func goOpenAI(t *testing.T, c client, q question) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), askMax)
	defer cancel()
	config := openai.DefaultConfig(c.key)
	config.BaseURL = c.base + "/v1"
	api := openai.NewClientWithConfig(config)
	s, err := goOpenAIAsk(ctx, api, q)
	if err == nil {
		return s
	}
	s.Failure = &failure{Class: fmt.Sprintf("%T", err), Message: err.Error()}
	var apiErr *openai.APIError
	if errors.As(err, &apiErr) {
		s.Failure = &failure{
			Class: fmt.Sprintf("%T", apiErr), Status: apiErr.HTTPStatusCode, Type: apiErr.Type, Message: apiErr.Message,
		}
		s.Failure.Code, _ = apiErr.Code.(string) // null stays empty
		if apiErr.Param != nil {
			s.Failure.Param = *apiErr.Param
		}
	}
	return s
}

func goOpenAIAsk(ctx context.Context, api *openai.Client, q question) (said, error) {
	switch q.Do {
	case "models":
		list, err := api.ListModels(ctx)
		var s said
		for _, m := range list.Models {
			s.IDs = append(s.IDs, m.ID)
		}
		return s, err
	case "model":
		m, err := api.GetModel(ctx, q.Model)
		return said{IDs: []string{m.ID}}, err
	}
	req := goOpenAIRequest(q)
	if q.Stream {
		return goOpenAIStream(ctx, api, req)
	}
	resp, err := api.CreateChatCompletion(ctx, req)
	if err != nil {
		return said{}, err
	}
	choice := resp.Choices[0]
	s := said{
		Text: choice.Message.Content, Finish: string(choice.FinishReason), IDs: []string{resp.ID},
		Usage:     &usage{resp.Usage.PromptTokens, resp.Usage.CompletionTokens, resp.Usage.TotalTokens},
		RequestID: resp.Header().Get("X-Request-Id"),
	}
	for _, call := range choice.Message.ToolCalls {
		s.Calls = append(s.Calls, toolCall{call.Function.Name, call.Function.Arguments})
	}
	return s, nil
}

func goOpenAIRequest(q question) openai.ChatCompletionRequest {
	req := openai.ChatCompletionRequest{
		Model: q.Model, MaxCompletionTokens: q.MaxTokens, N: q.N,
		Temperature: math.SmallestNonzeroFloat32, // its documented way to say 0, which it would leave out
		Messages:    []openai.ChatCompletionMessage{{Role: "user", Content: q.Text + strings.Repeat("x", q.Pad)}},
	}
	if q.Usage {
		req.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	}
	if q.Tools {
		req.Tools = []openai.Tool{{
			Type:     "function",
			Function: &openai.FunctionDefinition{Name: toolName, Description: toolAbout, Parameters: toolSchema()},
		}}
	}
	if q.ToolAnswer != "" {
		call := openai.ToolCall{
			ID: "call_1", Type: "function", Function: openai.FunctionCall{Name: toolName, Arguments: toolArgs},
		}
		req.Messages = append(req.Messages,
			openai.ChatCompletionMessage{Role: "assistant", ToolCalls: []openai.ToolCall{call}},
			openai.ChatCompletionMessage{Role: "tool", ToolCallID: "call_1", Content: q.ToolAnswer})
	}
	return req
}

func goOpenAIStream(ctx context.Context, api *openai.Client, req openai.ChatCompletionRequest) (said, error) {
	var s said
	stream, err := api.CreateChatCompletionStream(ctx, req)
	if err != nil {
		return s, err
	}
	defer stream.Close()
	s.RequestID = stream.Header().Get("X-Request-Id")
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		if u := chunk.Usage; u != nil {
			s.Usage = &usage{u.PromptTokens, u.CompletionTokens, u.TotalTokens}
			s.UsageEvents++
		}
		s.chunk(chunk.ID)
		if len(chunk.Choices) == 0 {
			continue
		}
		choice := chunk.Choices[0]
		s.piece(choice.Delta.Content, string(choice.FinishReason))
		for _, call := range choice.Delta.ToolCalls {
			if call.Index == nil {
				return s, errors.New("tool call without index in a stream")
			}
			s.call(*call.Index, call.Function.Name, call.Function.Arguments)
		}
	}
}

// openAIGoSDK is github.com/openai/openai-go/v3.
func openAIGoSDK() sdk {
	return sdk{
		name: "openai-go", ask: oneByOne(openAIGo), requestIDs: true, pieces: true,
		class: func(int) string { return fmt.Sprintf("%T", new(official.Error)) },
	}
}

func openAIGo(t *testing.T, c client, q question) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), askMax)
	defer cancel()
	api := official.NewClient(option.WithBaseURL(c.base+"/v1"), option.WithAPIKey(c.key))
	s, err := openAIGoAsk(ctx, &api, q)
	if err == nil {
		return s
	}
	s.Failure = &failure{Class: fmt.Sprintf("%T", err), Message: err.Error()}
	var apiErr *official.Error
	if errors.As(err, &apiErr) {
		s.Failure = &failure{
			Class: fmt.Sprintf("%T", apiErr), Status: apiErr.StatusCode, Code: apiErr.Code, Type: apiErr.Type,
			Param: apiErr.Param, Message: apiErr.Message, RequestID: apiErr.Response.Header.Get("X-Request-Id"),
		}
	}
	return s
}

func openAIGoAsk(ctx context.Context, api *official.Client, q question) (said, error) {
	switch q.Do {
	case "models":
		page, err := api.Models.List(ctx)
		if err != nil {
			return said{}, err
		}
		var s said
		for _, m := range page.Data {
			s.IDs = append(s.IDs, m.ID)
		}
		return s, nil
	case "model":
		m, err := api.Models.Get(ctx, q.Model)
		if err != nil {
			return said{}, err
		}
		return said{IDs: []string{m.ID}}, nil
	}
	params := openAIGoParams(q)
	if q.Stream {
		return openAIGoStream(ctx, api, params)
	}
	var raw *http.Response
	resp, err := api.Chat.Completions.New(ctx, params, option.WithResponseInto(&raw))
	if err != nil {
		return said{}, err
	}
	choice := resp.Choices[0]
	s := said{
		Text: choice.Message.Content, Finish: choice.FinishReason, IDs: []string{resp.ID},
		Usage:     officialUsage(&resp.Usage),
		RequestID: raw.Header.Get("X-Request-Id"),
	}
	for _, call := range choice.Message.ToolCalls {
		s.Calls = append(s.Calls, toolCall{call.Function.Name, call.Function.Arguments})
	}
	return s, nil
}

func openAIGoParams(q question) official.ChatCompletionNewParams {
	params := official.ChatCompletionNewParams{
		Model: q.Model, Temperature: official.Float(0),
		Messages: []official.ChatCompletionMessageParamUnion{official.UserMessage(q.Text + strings.Repeat("x", q.Pad))},
	}
	if q.MaxTokens > 0 {
		params.MaxCompletionTokens = official.Int(int64(q.MaxTokens))
	}
	if q.N > 0 {
		params.N = official.Int(int64(q.N))
	}
	if q.Usage {
		params.StreamOptions.IncludeUsage = official.Bool(true)
	}
	if q.Tools {
		params.Tools = []official.ChatCompletionToolUnionParam{official.ChatCompletionFunctionTool(
			official.FunctionDefinitionParam{Name: toolName, Description: official.String(toolAbout), Parameters: toolSchema()})}
	}
	if q.ToolAnswer != "" {
		call := official.ChatCompletionMessageFunctionToolCallParam{
			ID:       "call_1",
			Function: official.ChatCompletionMessageFunctionToolCallFunctionParam{Name: toolName, Arguments: toolArgs},
		}
		turn := official.ChatCompletionAssistantMessageParam{
			ToolCalls: []official.ChatCompletionMessageToolCallUnionParam{{OfFunction: &call}},
		}
		params.Messages = append(params.Messages,
			official.ChatCompletionMessageParamUnion{OfAssistant: &turn}, official.ToolMessage(q.ToolAnswer, "call_1"))
	}
	return params
}

func openAIGoStream(ctx context.Context, api *official.Client, params official.ChatCompletionNewParams) (said, error) {
	var s said
	var raw *http.Response
	stream := api.Chat.Completions.NewStreaming(ctx, params, option.WithResponseInto(&raw))
	defer stream.Close()
	for stream.Next() {
		chunk := stream.Current()
		if chunk.JSON.Usage.Valid() {
			s.Usage = officialUsage(&chunk.Usage)
			s.UsageEvents++
		}
		s.chunk(chunk.ID)
		if len(chunk.Choices) == 0 {
			continue
		}
		choice := chunk.Choices[0]
		s.piece(choice.Delta.Content, choice.FinishReason)
		for _, call := range choice.Delta.ToolCalls {
			s.call(int(call.Index), call.Function.Name, call.Function.Arguments)
		}
	}
	if raw != nil {
		s.RequestID = raw.Header.Get("X-Request-Id")
	}
	return s, stream.Err()
}

func officialUsage(u *official.CompletionUsage) *usage {
	return &usage{int(u.PromptTokens), int(u.CompletionTokens), int(u.TotalTokens)}
}

// chunk, piece and call put together what a stream brought.
func (s *said) chunk(id string) {
	if !slices.Contains(s.IDs, id) {
		s.IDs = append(s.IDs, id)
	}
}

func (s *said) piece(text, finish string) {
	if text != "" {
		s.Text += text
		s.Pieces++
	}
	if finish != "" {
		s.Finish = finish
	}
}

func (s *said) call(index int, name, arguments string) {
	for len(s.Calls) <= index {
		s.Calls = append(s.Calls, toolCall{})
	}
	s.Calls[index].Name += name
	s.Calls[index].Arguments += arguments
}
