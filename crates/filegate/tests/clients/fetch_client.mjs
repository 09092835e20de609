// The five calls as people write them with fetch.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

const url = process.env.FILEGATE_URL + "/v1/files";
const key = { Authorization: `Bearer ${process.env.FILEGATE_KEY}` };
const voice = await readFile("samples/voice.mp3");

async function upload(fields, headers = key) {
  const form = new FormData();
  for (const [name, ...value] of fields) form.append(name, ...value);
  const response = await fetch(url + "/upload", { method: "POST", headers, body: form });
  assert.equal(response.status, 200);
  assert.match(response.headers.get("Trace-Id"), /^[0-9a-f]{32}$/);
  return response.text();
}

async function call(path, options = {}) {
  const response = await fetch(url + path, { headers: key, ...options });
  assert.equal(response.status, 200);
  return response.json();
}

const remove = (body) =>
  call("/delete", {
    method: "POST",
    headers: { ...key, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

const success = { status_code: 0, status_msg: "success" };

// Either order, a Blob without a type, a name that is not ASCII.
const name = 'Stimme "ä" 声音 🎤 100%41.mp3';
const ids = [];
for (const fields of [
  [["purpose", "voice_clone"], ["file", new Blob([voice]), name]],
  [["file", new Blob([voice]), name], ["purpose", "voice_clone"]],
]) {
  const text = await upload(fields);
  const reply = JSON.parse(text);
  assert.deepEqual(reply.base_resp, success);
  assert.equal(reply.file.filename, name);
  assert.equal(reply.file.bytes, voice.length);
  // JSON.parse must not have rounded the id.
  assert.ok(Number.isSafeInteger(reply.file.file_id) && reply.file.file_id > 0);
  assert.equal(String(reply.file.file_id), text.match(/"file_id":\s*(\d+)/)[1]);
  ids.unshift(reply.file.file_id);
}

assert.deepEqual((await call("/list?purpose=voice_clone")).files.map((f) => f.file_id), ids);
assert.deepEqual((await call("/list?purpose=prompt_audio")).files, []);

const { file } = await call(`/retrieve?file_id=${ids[0]}`);
assert.equal(file.filename, name);
for (const [address, headers] of [
  [`${url}/retrieve_content?file_id=${ids[0]}`, key],
  [`${url}/retrieve_content?file_id=${ids[0]}`, { "x-api-key": process.env.FILEGATE_KEY }],
  [file.download_url, {}],
  [file.download_url, key],
]) {
  const response = await fetch(address, { headers });
  assert.ok(voice.equals(Buffer.from(await response.arrayBuffer())));
}

// Refusals say why, also while the body is on its way.
const long = new Blob([await readFile("samples/too-long.mp3")]);
const large = new Blob([new Uint8Array(6 << 20)]);
const huge = new Blob([new Uint8Array(60 << 20)]);
const stranger = { Authorization: "Bearer fg-" + "0".repeat(43) };
for (const [fields, headers, code, message] of [
  [[["purpose", "voice_clone"], ["file", long, "long.mp3"]], key, 2037, "voice duration too long: 305 s, at most 300 s"],
  [[["purpose", "nonsense"], ["file", large, "large.mp3"]], key, 2013, "invalid params, invalid file purpose"],
  [[["purpose", "voice_clone"], ["file", huge, "huge.mp3"]], key, 2013, "invalid params, file is too large: over 20MiB"],
  [[["purpose", "voice_clone"], ["file", large, "large.mp3"]], stranger, 2049, "invalid api key"],
]) {
  const reply = JSON.parse(await upload(fields, headers));
  assert.equal(reply.file, null);
  assert.equal(reply.base_resp.status_code, code);
  assert.ok(reply.base_resp.status_msg.startsWith(message), reply.base_resp.status_msg);
}

assert.deepEqual(await remove({ file_id: ids[0] }), { file_id: ids[0], base_resp: success });
assert.deepEqual(await remove({ file_id: String(ids[1]) }), { file_id: ids[1], base_resp: success });
assert.equal((await remove({ file_id: ids[0] })).base_resp.status_code, 2013);
