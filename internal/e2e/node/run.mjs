// Asks questions through OpenAI's own client for Node and prints what it saw, both as JSON arrays: stdin and stdout.
// Base URL and key come from the environment, as in any app.
import { text as readAll } from 'node:stream/consumers';
import OpenAI from 'openai';

function params(q) {
  const p = { model: q.model, temperature: 0, messages: [{ role: 'user', content: q.text }] };
  if (q.pad) p.messages[0].content += 'x'.repeat(q.pad);
  if (q.usage) p.stream_options = { include_usage: true };
  if (q.maxTokens) p.max_completion_tokens = q.maxTokens;
  if (q.n) p.n = q.n;
  if (q.tools) {
    const parameters = { type: 'object', required: ['city'], properties: { city: { type: 'string' } } };
    p.tools = [{ type: 'function', function: { name: 'get_weather', description: 'Get the weather in a city', parameters } }];
  }
  if (q.toolAnswer) {
    const call = { id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Paris"}' } };
    p.messages.push({ role: 'assistant', content: null, tool_calls: [call] });
    p.messages.push({ role: 'tool', tool_call_id: call.id, content: q.toolAnswer });
  }
  return p;
}

async function plain(client, q) {
  const a = await client.chat.completions.create(params(q));
  const { message, finish_reason } = a.choices[0];
  return {
    text: message.content ?? '', finish: finish_reason, usage: a.usage, ids: [a.id], requestId: a._request_id,
    calls: (message.tool_calls ?? []).map((c) => c.function),
  };
}

async function stream(client, q) {
  const said = { text: '', pieces: 0, finish: '', usageEvents: 0, calls: [], ids: [] };
  const { data, request_id } = await client.chat.completions.create({ ...params(q), stream: true }).withResponse();
  said.requestId = request_id;
  for await (const chunk of data) {
    if (!said.ids.includes(chunk.id)) said.ids.push(chunk.id);
    if (chunk.usage) {
      said.usage = chunk.usage;
      said.usageEvents++;
    }
    const choice = chunk.choices[0];
    if (!choice) continue;
    if (choice.delta.content) {
      said.text += choice.delta.content;
      said.pieces++;
    }
    for (const call of choice.delta.tool_calls ?? []) {
      const whole = (said.calls[call.index] ??= { name: '', arguments: '' });
      whole.name += call.function?.name ?? '';
      whole.arguments += call.function?.arguments ?? '';
    }
    said.finish = choice.finish_reason ?? said.finish;
  }
  return said;
}

async function models(client) {
  const ids = [];
  for await (const m of client.models.list()) ids.push(m.id);
  return { ids };
}

async function answer(q) {
  const client = q.key ? new OpenAI({ apiKey: q.key }) : new OpenAI();
  if (q.do === 'models') return models(client);
  if (q.do === 'model') return { ids: [(await client.models.retrieve(q.model)).id] };
  return q.stream ? stream(client, q) : plain(client, q);
}

async function ask(q) {
  try {
    return await answer(q);
  } catch (e) {
    const failure = {
      class: e.constructor.name, status: e.status ?? 0, code: e.code ?? '', type: e.type ?? '', param: e.param ?? '',
      message: String(e.message), requestId: e.requestID ?? '',
    };
    return { failure };
  }
}

const answers = [];
for (const q of JSON.parse(await readAll(process.stdin))) answers.push(await ask(q));
console.log(JSON.stringify(answers));
