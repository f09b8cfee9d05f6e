// OpenAI's client for Node: chats, streams, vectors, models, errors, files and batches.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { VERSION } from "openai/version";

const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });
const model = process.env.MODEL;
const asked = {
  model,
  messages: [{ role: "user", content: "Where is Paris?" }],
  temperature: 0,
  max_tokens: 20,
};

const whole = await client.chat.completions.create(asked);
const text = whole.choices[0].message.content;
assert.ok(text);
assert.equal(whole.usage.completion_tokens, 20);

const pieces = [];
let usage;
const stream = await client.chat.completions.create({
  ...asked,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  pieces.push(chunk.choices[0]?.delta.content ?? "");
  usage = chunk.usage ?? usage;
}
assert.equal(pieces.join(""), text);
assert.deepEqual(usage, whole.usage);

const runner = client.chat.completions.stream(asked);
assert.equal(await runner.finalContent(), text);

const schema = {
  type: "object",
  properties: { name: { enum: ["Paris", "Rome"] } },
  required: ["name"],
  additionalProperties: false,
};
const formed = await client.chat.completions.create({
  ...asked,
  max_tokens: undefined,
  response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } },
});
assert.ok(["Paris", "Rome"].includes(JSON.parse(formed.choices[0].message.content).name));

const continued = await client.completions.create({ model, prompt: "One", max_tokens: 3 });
assert.ok(continued.choices[0].text);

const vectors = await client.embeddings.create({
  model: process.env.EMBEDDING_MODEL,
  input: ["One", "Two"],
});
assert.equal(vectors.data.length, 2);
assert.equal(typeof vectors.data[0].embedding[0], "number");

const listed = [];
for await (const one of client.models.list()) listed.push(one.id);
assert.ok(listed.includes(model));
assert.equal((await client.models.retrieve(model)).id, model);

await assert.rejects(client.chat.completions.create({ ...asked, model: "nobody" }), (error) => {
  assert.ok(error instanceof OpenAI.NotFoundError);
  assert.equal(error.code, "model_not_found");
  assert.ok(error.requestID);
  return true;
});

const lines = [0, 1, 2].map((index) =>
  JSON.stringify({
    custom_id: `${index}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { ...asked, max_tokens: 4 },
  }),
);
const file = await client.files.create({
  file: await toFile(Buffer.from(lines.join("\n")), "asked.jsonl"),
  purpose: "batch",
});
let batch = await client.batches.create({
  input_file_id: file.id,
  endpoint: "/v1/chat/completions",
  completion_window: "24h",
});
const deadline = Date.now() + 60_000;
while (batch.status !== "completed") {
  assert.ok(["validating", "in_progress", "finalizing"].includes(batch.status), batch.status);
  assert.ok(Date.now() < deadline, "the batch does not end");
  await new Promise((resolve) => setTimeout(resolve, 100));
  batch = await client.batches.retrieve(batch.id);
}
const output = await (await client.files.content(batch.output_file_id)).text();
const ids = output.trim().split("\n").map((line) => JSON.parse(line).custom_id);
assert.deepEqual(ids.sort(), ["0", "1", "2"]);
const files = [];
for await (const one of client.files.list({ limit: 1 })) files.push(one.id);
assert.ok(files.includes(file.id));

console.log("openai-node", VERSION);
