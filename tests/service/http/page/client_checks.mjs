/** Checks of the JavaScript client in Node: `node client_checks.mjs CHECK URL [FILE]`. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { readFileSync } from "node:fs";

import { Client, ProblemError, StreamClosedError, UnreachableError, curlCommand } from "./client.mjs";

const [check, url, file] = process.argv.slice(2);
const KEY = "anna-q7Zt4mXv9RkB2wLc8NpY";

const checks = {
  async classify() {
    const client = new Client(url);
    assert.throws(() => new Client("127.0.0.1:8000"), /must be the address of a service, with http/);
    const names = (await client.models()).map((model) => model.name);
    assert.deepEqual(names, ["avdigits", "strict"]);
    assert.equal((await client.card("strict")).name, "strict");
    const clip = readFileSync(file);
    const answer = await client.classify({ clip }, { model: "strict", top_k: 2, steps: 2, attention: "none" });
    assert.equal(answer.model.name, "strict");
    assert.equal(answer.probabilities.length, 2);
    assert.equal(answer.steps, 2);
    assert.equal(answer.attention, undefined);
    const parts = await client.classify({ video: clip, audio: new Blob([clip]) });
    assert.ok(parts.streams.audio.used && parts.streams.visual.used);
    console.log(answer.prediction.label);
  },

  async batch() {
    const client = new Client(url);
    const clip = readFileSync(file);
    const [whole, bad, parts] = await client.classifyBatch(
      [{ clip }, { clip: new Uint8Array([1]) }, { video: clip, audio: new Blob([clip]), steps: 2 }],
      { model: "strict", top_k: 1, steps: 3 },
    );
    assert.deepEqual([whole.steps, parts.steps, whole.probabilities.length], [3, 2, 1]);
    assert.ok(bad instanceof ProblemError);
    assert.deepEqual([bad.kind, bad.status, bad.field], ["unknown-format", 415, "clip"]);
    const refused = await thrown(client.classifyBatch([{ clip }], { steps: 99 }));
    assert.deepEqual([refused.kind, refused.field], ["invalid-field", "steps"]);
    assert.match((await thrown(client.classifyBatch([{ clip }, { frames: [], steps: 2 }]))).message, /Clip 1 has no file/);
    assert.match((await thrown(client.classifyBatch([]))).message, /no clip/);
    const misplaced = await thrown(client.classifyBatch([{ clip }], { frames: [clip] }));
    assert.ok(misplaced instanceof TypeError && /frames: files belong to a clip/.test(misplaced.message));
    for (const results of [undefined, [], [{}], [{ answer: null }], [{ answer: {} }, { answer: {} }]]) {
      const fetch = async () => Response.json({ results });
      const cut = await thrown(new Client(url, { fetch }).classifyBatch([{ clip }]));
      assert.ok(cut instanceof UnreachableError, JSON.stringify(results));
    }
  },

  async errors() {
    const client = new Client(url);
    const problem = await thrown(client.classify({ clip: new Uint8Array([1]) }, { steps: 99 }));
    assert.ok(problem instanceof ProblemError);
    assert.deepEqual([problem.kind, problem.status, problem.field], ["invalid-field", 422, "steps"]);
    assert.match(problem.message, /1 to 64/);
    assert.match(problem.id, /^[0-9a-f]{32}$/);
    assert.equal((await thrown(client.card("nobody"))).kind, "unknown-model");
    const aborting = new AbortController();
    const aborted = client.classify({ clip: readFileSync(file) }, { steps: 64, signal: aborting.signal });
    aborting.abort();
    assert.equal((await thrown(aborted)).name, "AbortError");
    assert.ok(await thrown(new Client("http://127.0.0.1:1").models()) instanceof UnreachableError);
    assert.ok(await thrown(new Client(`${url}/healthz`).models()) instanceof ProblemError);
  },

  /** The service has a limit of 60 a minute. */
  async keys() {
    assert.equal((await thrown(new Client(url).models())).kind, "key-needed");
    const impatient = new Client(url, { key: KEY, retries: 0 });
    let refused = null;
    for (let i = 0; i < 200 && !refused; i += 1) refused = await thrown(impatient.models());
    assert.deepEqual([refused.kind, refused.status], ["rate-limit", 429]);
    assert.ok(refused.retryAfterS >= 1);
    const patient = new Client(url, { key: KEY, retries: 5 });
    assert.ok(Array.isArray(await patient.models()), "it waits for as long as Retry-After says");
    const tooLong = new Client(url, { key: KEY, maxWaitS: 0 });
    while (!(await thrown(tooLong.models())));
  },

  /** Prints the outcome of a request to each of the addresses. */
  async outcomes() {
    const outcomes = [];
    for (const address of file.split(" ")) {
      const error = await thrown(new Client(address, { maxWaitS: 5 }).models());
      outcomes.push(error === null ? "answered" : `${error.name} ${error.status ?? ""}`.trim());
    }
    console.log(outcomes.join(", "));
  },

  /** Handshakes are refused. Prints the error. */
  async handshakes() {
    const error = await thrown(new Client(url, { maxWaitS: 5 }).stream({ inputs: [] }));
    console.log(error.name, error.code ?? error.status);
  },

  async stream() {
    const stream = await new Client(url).stream({
      inputs: [{ field: "audio", format: "pcm16", sample_rate: 8000 }], hop_s: 60, top_k: 1,
    });
    assert.equal(stream.ready.model, "avdigits");
    const second = 1_000_000_000n;
    const samples = Int16Array.from({ length: 800 }, (_, i) => 9000 * Math.sin(i / 3));
    for (let i = 0n; i < 10n; i += 1n) assert.ok(stream.sendSound(samples, 5n * second + (i * second) / 10n));
    assert.throws(() => stream.sendPicture(samples, 0), /no input for frames/);
    stream.finalize();
    const messages = [];
    for await (const message of stream) {
      messages.push(message);
      if (messages.length === 1) {
        stream.beginSegment();
        stream.sendSound(samples, second);
        stream.close();
      }
    }
    assert.deepEqual(messages.map(({ type, final, segment }) => [type, final, segment]),
      [["answer", true, 0], ["answer", true, 1]]);
    assert.equal(messages[0].window.newest_ns.audio, 6_000_000_000);
    assert.equal(stream.summary.messages.audio, 11);
    const invalid = await thrown(new Client(url).stream({ inputs: [] }));
    assert.ok(invalid instanceof StreamClosedError);
    assert.deepEqual([invalid.code, /inputs/.test(invalid.message)], [4400, true]);
  },

  /** What is not a stream of the service is an error: it neither hangs nor ends the process. */
  async noStream() {
    const error = await thrown(new Client(url).stream({ inputs: [] }));
    assert.ok(error instanceof UnreachableError, String(error));
    console.log(error.message);
  },

  /** A server that says nothing, before or after the handshake, is left after a time, or when asked to. */
  async silent() {
    const start = { inputs: [] };
    const late = await thrown(new Client(url, { openTimeoutS: 0.2 }).stream(start));
    assert.ok(late instanceof UnreachableError, String(late));
    assert.match(late.message, /not ready for a live stream within 0.2 s/);
    const { signal } = aborting(200);
    assert.equal((await thrown(new Client(url).stream(start, { signal }))).name, "AbortError");
    assert.equal(getEventListeners(signal, "abort").length, 0);
  },

  /** One signal may be that of all calls of a page: none leaves a listener. */
  async signal() {
    let sent = 0;
    const fetch = async () => (++sent % 3 ? new Response("", { status: 503, headers: { "Retry-After": "0" } })
      : Response.json({ models: [] }));
    const { signal } = new AbortController();
    await new Client("http://127.0.0.1", { fetch, maxWaitS: 30 }).models({ signal });
    assert.deepEqual([sent, getEventListeners(signal, "abort").length], [3, 0]);
  },

  /** A refused handshake says why, which the WebSocket itself does not. */
  async streamKeys() {
    const inputs = [{ field: "audio", format: "pcm16", sample_rate: 8000 }];
    assert.equal((await thrown(new Client(url, { key: "nobody" }).stream({ inputs }))).kind, "key-needed");
    const notReady = await thrown(new Client(url, { key: KEY }).stream({ inputs }));
    assert.equal(notReady.code, 1013, "the key was accepted; the service has no checkpoint");
  },

  curl() {
    const command = curlCommand("https://example.org/a/", { clip: "it's.mp4", frames: ["1.png", "2.png"] },
      { model: "a b", top_k: 2, steps: undefined }, true);
    assert.equal(command, `curl -H "Authorization: Bearer $KEY" -F 'clip=@it'\\''s.mp4' -F frames=@1.png `
      + "-F frames=@2.png -F top_k=2 https://example.org/a/v1/models/a%20b/classify");
  },
};

function aborting(afterMs) {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), afterMs);
  return controller;
}

/** Return what a promise is rejected with, or null. */
async function thrown(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return error;
  }
}

await checks[check]();
