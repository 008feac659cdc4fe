/**
 * Client of an scmrl service, for browsers and Node from 18. One module without dependencies.
 *
 *     import { Client } from "./client.js";
 *     const client = new Client("http://127.0.0.1:8000");
 *     const answer = await client.classify({ clip: file }, { top_k: 3 });
 *     console.log(answer.prediction.label);
 *
 * Names of files, options and answers are those of docs/http-api.md and docs/streams.md.
 *
 * @typedef {Blob | ArrayBuffer | ArrayBufferView} FileData
 * @typedef {{[field: string]: FileData | FileData[]}} Files  by upload field: clip, video, audio, …
 * @typedef {{model?: string, steps?: number, top_k?: number, attention?: "none" | "grid" | "overlay",
 *     class_activation?: "none" | "grid" | "overlay",
 *     contributions?: "tower" | "leave_one_out", abstain_below?: number, abstain_beyond?: number,
 *     diagnostics?: boolean, degrade?: boolean}} Options
 * @typedef {{label: string, index: number, probability: number}} Probability
 * @typedef {{values: number[][], rows: string, columns: string, row_edges: number[],
 *     column_edges: number[]}} SpatialMap
 * @typedef {{id: string, model: {name: string, version: string}, prediction: Partial<Probability>,
 *     abstained: boolean, out_of_domain?: number, probabilities: Probability[],
 *     contributions: {[stream: string]: {[label: string]: number}},
 *     leave_one_out?: {changes?: {[stream: string]: {[label: string]: number}}, reason?: string},
 *     streams: {[stream: string]: object}, attention?: {[stream: string]: {spatial?: SpatialMap,
 *     temporal?: {values: number[][]}, overlay_png?: string}}, class_activation?: {label: string,
 *     index: number, maps: {[stream: string]: {spatial: SpatialMap, overlay_png?: string}}},
 *     diagnostics?: object, steps: number,
 *     degraded: boolean, batch_size: number, timing_ms: {[part: string]: number}}} Answer
 */

const STREAM_PROTOCOL = "scmrl.stream.v1";
const KEY_PROTOCOL = "scmrl.key.";
/** Bytes of the header of a binary message, its kinds, and the flag of a new segment. */
const HEADER_BYTES = 16;
const PICTURE = 1;
const SOUND = 2;
const SERIES = 3;
const NEW_SEGMENT = 1;
/** Pictures are dropped while more bytes than these wait to be sent. */
const MAX_WAITING_BYTES = 512 * 1024;
/** Statuses that say nothing about the request, so that it may be sent again. */
const RETRIED = new Set([429, 503]);
/** Statuses of proxies whose instance died or is not there; Ray Serve's says 500. */
const OF_PROXIES = new Set([500, 502, 503]);
/** Bounds in seconds of the first wait without Retry-After, and of later ones, which double. */
const BACKOFF_S = 0.25;
const MAX_BACKOFF_S = 8;
/** Errors of Node's fetch that are those of a service which takes too long. */
const TIMEOUTS = new Set(["UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT"]);

/** The service's answer is an error: a problem document (RFC 9457). */
export class ProblemError extends Error {
  /** @param {{type: string, title: string, status: number, detail: string, field?: string,
   *     id?: string}} document  @param {number} [retryAfterS]  @param {boolean} [ofProxy] */
  constructor(document, retryAfterS, ofProxy = false) {
    super(document.detail || document.title);
    this.name = "ProblemError";
    /** Kind of error, as `invalid-field`. */
    this.kind = String(document.type).split(":").pop();
    this.title = document.title;
    this.status = document.status;
    this.detail = document.detail;
    this.field = document.field;
    this.id = document.id;
    /** Seconds after which a retry makes sense, or undefined. */
    this.retryAfterS = retryAfterS;
    /** Whether a proxy answered, not the service. */
    this.ofProxy = ofProxy;
  }
}

/** There was no answer: the service cannot be reached, or a proxy changed the answer. */
export class UnreachableError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = "UnreachableError";
  }
}

/** The connection could not be made, or was lost before the answer. */
class ConnectionLostError extends UnreachableError {}

/** A live stream ended in another way than by `close()`. */
export class StreamClosedError extends Error {
  constructor(code, reason) {
    super(reason || CLOSE_CODES[code] || `The stream was closed with code ${code}.`);
    this.name = "StreamClosedError";
    this.code = code;
    this.reason = reason;
  }
}

const CLOSE_CODES = {
  1006: "The connection of the stream was lost.",
  1009: "A message was larger than 1 MiB.",
  1011: "The service failed; its log has the details.",
  1012: "The service is shutting down.",
  1013: "The checkpoint is not ready.",
  4404: "There is no such checkpoint.",
  4408: "No message was sent for too long.",
  4409: "The stream was as long as the service allows.",
  4429: "Too many streams are open.",
  4430: "Too many messages were sent.",
  4431: "The decoder of the stream was lost; open another stream.",
};

export class Client {
  /**
   * @param {string | URL} url  of the service, also below a path: https://example.org/scmrl/
   * @param {object} [options]
   * @param {string} [options.key]  API key
   * @param {number} [options.retries]  how often a request is sent again: after 429 and 503 with
   *     Retry-After, where no connection held, and where a proxy has lost its instance of the service
   * @param {number} [options.maxWaitS]  seconds that a call may wait between its attempts, together
   * @param {number} [options.openTimeoutS]  seconds of one attempt to open a live stream, until the
   *     service is ready for it; requests have the limits of `fetch`
   * @param {typeof fetch} [options.fetch]
   * @param {typeof WebSocket} [options.WebSocket]  for Node before 22, which has none: that of the
   *     package `ws`, for example
   */
  constructor(url, { key, retries = 2, maxWaitS = 30, openTimeoutS = 60, fetch, WebSocket } = {}) {
    const base = String(url);
    if (!/^https?:\/\/./.test(base)) {
      throw new TypeError(`${base}: must be the address of a service, with http:// or https://`);
    }
    this.url = new URL(base.endsWith("/") ? base : `${base}/`);
    this.key = key;
    this.retries = retries;
    this.maxWaitS = maxWaitS;
    this.openTimeoutS = openTimeoutS;
    this.fetch = fetch ?? ((...parts) => globalThis.fetch(...parts));
    this.WebSocket = WebSocket ?? globalThis.WebSocket;
  }

  /** List the checkpoints. @param {{signal?: AbortSignal}} [options] */
  async models(options = {}) {
    return (await this.#json("v1/models", { signal: options.signal })).models;
  }

  /** Return a checkpoint's card. @param {string} name  @param {{signal?: AbortSignal}} [options] */
  card(name, options = {}) {
    return this.#json(`v1/models/${encodeURIComponent(name)}`, { signal: options.signal });
  }

  /**
   * Classify the files of one clip. Throws ProblemError and UnreachableError.
   *
   * @param {Files} files
   * @param {Options & {signal?: AbortSignal}} [options]  of `model`: the service's default
   * @returns {Promise<Answer>}
   */
  classify(files, { signal, ...options } = {}) {
    return this.#json(classifyPath(options.model), {
      method: "POST",
      body: form(files, options),
      signal,
    });
  }

  /**
   * Classify several clips in one call. Returns for each, in order, its answer or the ProblemError
   * of this clip, which is not thrown; throws errors of the whole call, as `classify`, and TypeError
   * where there is no clip, or one without a file.
   *
   * @param {(Files & Options)[]} clips  files and options of each
   * @param {Options & {signal?: AbortSignal}} [options]  of every clip that has none of its own
   * @returns {Promise<(Answer | ProblemError)[]>}
   */
  async classifyBatch(clips, { signal, ...options } = {}) {
    if (!clips.length) throw new TypeError("There is no clip.");
    const misplaced = Object.keys(options).find((name) => [options[name]].flat().some(isFile));
    if (misplaced) throw new TypeError(`${misplaced}: files belong to a clip, not to the options of all.`);
    const body = form({}, options);
    clips.forEach((clip, number) => {
      if (!Object.values(clip).flat().some(isFile)) throw new TypeError(`Clip ${number} has no file.`);
      addFields(body, clip, `.${number}`);
    });
    const path = `${classifyPath(options.model)}/batch`;
    const { results } = await this.#json(path, { method: "POST", body, signal });
    const complete = Array.isArray(results) && results.every((result) => result?.answer || result?.problem);
    if (!complete || results.length !== clips.length) {
      throw new UnreachableError(`The answer does not have a result for each of ${clips.length} clips.`);
    }
    return results.map(({ answer, problem, retry_after_s: after }) => answer ?? new ProblemError(problem, after));
  }

  /**
   * Open a live stream. Throws ProblemError, UnreachableError and StreamClosedError.
   *
   * @param {object} start  the members of `start` (docs/streams.md); `max_unacknowledged` is 2
   *     unless it is set, and answers are acknowledged when they are read
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Stream>}
   */
  async stream(start, { signal } = {}) {
    if (!this.WebSocket) {
      throw new TypeError("There is no WebSocket here: pass one as the option `WebSocket`.");
    }
    const attempts = new Attempts(this.retries, this.maxWaitS);
    for (;;) {
      try {
        return await this.#open(start, signal);
      } catch (error) {
        signal?.throwIfAborted();
        await attempts.wait(isLost(error) ? await this.#reason(error, signal) : error, signal);
      }
    }
  }

  /**
   * Return why a stream was not opened. A browser does not say why a handshake was refused; a
   * request that needs the same does. It is sent once: `stream` counts the attempts.
   */
  async #reason(error, signal) {
    try {
      await this.#send("v1/models", { signal });
    } catch (reason) {
      signal?.throwIfAborted();
      return reason;
    }
    return error;
  }

  /** Open a live stream, without retries. */
  async #open(start, signal) {
    signal?.throwIfAborted();
    const address = new URL("v1/stream", this.url);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const protocols = [STREAM_PROTOCOL];
    if (this.key) protocols.push(KEY_PROTOCOL + base64url(this.key));
    const stream = new Stream(new this.WebSocket(address.href, protocols), start);
    // A server that says nothing does not confirm the end of the connection either: neither is waited for.
    const late = `${this.url.href} was not ready for a live stream within ${this.openTimeoutS} s.`;
    try {
      await within(stream.opened, this.openTimeoutS, new UnreachableError(late), signal);
    } catch (error) {
      stream.abort();
      throw error;
    }
    return stream;
  }

  async #json(path, init) {
    const attempts = new Attempts(this.retries, this.maxWaitS);
    for (;;) {
      try {
        return parse(await this.#send(path, init));
      } catch (error) {
        await attempts.wait(error, init.signal);
      }
    }
  }

  /** Return the body of an answer. Throws ProblemError and UnreachableError. */
  async #send(path, init) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    let response, text;
    try {
      response = await this.fetch(new URL(path, this.url), { ...init, headers });
      text = await response.text();
    } catch (error) {
      if (init.signal?.aborted) throw error;
      if (TIMEOUTS.has(error.cause?.code)) {
        throw new UnreachableError(`${this.url.href} did not answer in time.`, { cause: error });
      }
      const message = `The service at ${this.url.href} did not answer: it is not running, or the connection was lost.`;
      throw new ConnectionLostError(message, { cause: error });
    }
    if (!response.ok) throw problemOf(response, text);
    return text;
  }
}

/** The attempts of one call; their rules are those of the Python client (docs/clients.md). */
class Attempts {
  #retries;
  #maxWaitS;
  #failed = 0;
  #began = performance.now();

  constructor(retries, maxWaitS) {
    this.#retries = retries;
    this.#maxWaitS = maxWaitS;
  }

  /** Wait before the next attempt. Throws `error` where there is none, and the signal's reason. */
  async wait(error, signal) {
    if (this.#failed >= this.#retries || !mayRetry(error)) throw error;
    const after = error.retryAfterS;
    const left = this.#maxWaitS - (performance.now() - this.#began) / 1000;
    if ((after ?? 0) > left) throw error;
    const bound = after === undefined ? Math.min(BACKOFF_S * 2 ** this.#failed, MAX_BACKOFF_S) : BACKOFF_S;
    this.#failed += 1;
    await sleep(Math.min((after ?? 0) + Math.random() * bound, left), signal);
  }
}

function mayRetry(error) {
  if (!(error instanceof ProblemError)) return error instanceof ConnectionLostError || isLost(error);
  if (error.ofProxy && OF_PROXIES.has(error.status)) return true;
  return RETRIED.has(error.status) && error.retryAfterS !== undefined;
}

/** Return whether the connection of a stream was lost, or its handshake refused. */
function isLost(error) {
  return error instanceof StreamClosedError && error.code === 1006;
}

/**
 * A live stream. Iterate over it for its messages, `answer` and `problem`:
 *
 *     const stream = await client.stream({ inputs: [{ field: "frames" }] });
 *     stream.sendPicture(jpeg, timeNs);
 *     for await (const message of stream) …
 */
export class Stream {
  #socket;
  #start;
  #sequences = new Map();
  #queue = [];
  #wake = () => {};
  #ended = null;
  #newSegment = new Set();

  constructor(socket, start) {
    this.#socket = socket;
    this.#start = { type: "start", max_unacknowledged: 2, ...start };
    /** The `ready` message with the session's options; set once it is open. */
    this.ready = null;
    /** The summary that the service sends after `close()`. */
    this.summary = null;
    socket.binaryType = "arraybuffer";
    this.opened = new Promise((resolve, reject) => {
      socket.onopen = () => socket.send(JSON.stringify(this.#start));
      const fail = (error) => {
        this.#ended ??= { error };
        this.#wake();
        reject(error);
        socket.close();
      };
      socket.onmessage = (event) => this.#receive(event.data, resolve, fail);
      const end = (code, reason) => {
        this.#end(code, reason);
        reject(this.#ended.error ?? new StreamClosedError(code, reason));
      };
      socket.onclose = (event) => end(event.code, event.reason);
      // Some sockets, as that of Node 20, are not closed where the handshake was refused.
      socket.onerror = () => this.ready ?? end(1006, "");
    });
    this.opened.catch(() => {}); // who awaits it gets the error
  }

  /**
   * Send a picture. @param {ArrayBuffer | ArrayBufferView} picture  a JPEG or PNG file, or an access
   *     unit of H.264 (`format: "h264"`: of a VideoEncoder with `avc: {format: "annexb"}`)
   * @param {number | bigint} timeNs  when it was captured, in ns of a clock that all inputs share
   * @returns {boolean}  false where it was dropped, since older ones still wait to be sent: of H.264,
   *     encode a key frame next
   */
  sendPicture(picture, timeNs) {
    if (this.#socket.bufferedAmount > MAX_WAITING_BYTES) {
      this.#next("frames");
      return false;
    }
    return this.#sendMedia(PICTURE, "frames", picture, timeNs);
  }

  /**
   * Send sound. @param {ArrayBuffer | ArrayBufferView} samples  PCM of 16 bits, little-endian, or an
   *     Opus packet (`format: "opus"`: of an AudioEncoder)
   * @param {number | bigint} timeNs  when the first sample was captured
   */
  sendSound(samples, timeNs) {
    return this.#sendMedia(SOUND, "audio", samples, timeNs);
  }

  /**
   * Send values over time. @param {string} field  name of the checkpoint's stream
   * @param {Float32Array | ArrayBuffer} values  @param {number | bigint} timeNs  as for sound
   */
  sendSeries(field, values, timeNs) {
    return this.#sendMedia(SERIES, field, values, timeNs);
  }

  /** Begin a new segment with the next message of each input. */
  beginSegment() {
    this.#start.inputs.forEach((input) => this.#newSegment.add(input.field));
  }

  /** Ask for an answer now. */
  finalize() {
    this.#sendText({ type: "finalize" });
  }

  /** Keep the session open while nothing is sent. */
  keepalive() {
    this.#sendText({ type: "keepalive" });
  }

  /** End the session. Iterate on to get the last answer; then `summary` is set. */
  close() {
    this.#sendText({ type: "close" });
  }

  /** Drop the connection. */
  abort() {
    this.#socket.close();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#queue.length) {
        const message = this.#queue.shift();
        if (message.type === "answer") this.#sendText({ type: "ack", answer: message.number });
        yield message;
      }
      if (this.#ended) {
        if (this.#ended.error) throw this.#ended.error;
        return;
      }
      await new Promise((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #receive(text, opened, fail) {
    let message;
    try {
      message = parse(text);
    } catch (error) {
      fail(error);
      return;
    }
    if (!message?.type || (!this.ready && message.type !== "ready")) {
      fail(new UnreachableError("What was received is not a live stream: is this an scmrl service?"));
    } else if (message.type === "ready") {
      this.ready = message;
      opened(this);
    } else if (message.type === "summary") {
      this.summary = message;
    } else {
      this.#queue.push(message);
      this.#wake();
    }
  }

  #end(code, reason) {
    this.#ended ??= { error: code === 1000 ? null : new StreamClosedError(code, reason) };
    this.#wake();
  }

  #sendMedia(kind, field, payload, timeNs) {
    if (this.#socket.readyState !== 1) return false;
    const number = this.#start.inputs.findIndex((input) => input.field === field);
    if (number < 0) throw new TypeError(`This stream has no input for ${field}.`);
    const bytes = viewOf(payload);
    const message = new Uint8Array(HEADER_BYTES + bytes.length);
    const header = new DataView(message.buffer);
    header.setUint8(0, kind);
    header.setUint8(1, this.#newSegment.delete(field) ? NEW_SEGMENT : 0);
    header.setUint16(2, number, true);
    header.setUint32(4, this.#next(field), true);
    header.setBigUint64(8, BigInt(typeof timeNs === "bigint" ? timeNs : Math.round(timeNs)), true);
    message.set(bytes, HEADER_BYTES);
    this.#socket.send(message);
    return true;
  }

  /** Return the sequence number of the input's next message. */
  #next(field) {
    const sequence = this.#sequences.get(field) ?? 0;
    this.#sequences.set(field, (sequence + 1) >>> 0);
    return sequence;
  }

  #sendText(message) {
    if (this.#socket.readyState === 1) this.#socket.send(JSON.stringify(message));
  }
}

/**
 * Return the curl command of a request, for people to read.
 *
 * @param {string | URL} url  of the service
 * @param {{[field: string]: string | string[]}} names  file names by upload field
 * @param {Options} options
 * @param {boolean} keyed  whether a key is sent; it stands there as $KEY
 */
export function curlCommand(url, names, options = {}, keyed = false) {
  const parts = ["curl"];
  if (keyed) parts.push('-H "Authorization: Bearer $KEY"');
  for (const [field, value] of Object.entries(names)) {
    for (const name of [value].flat()) parts.push(`-F ${quote(`${field}=@${name}`)}`);
  }
  for (const [name, value] of fields(options)) parts.push(`-F ${quote(`${name}=${value}`)}`);
  parts.push(quote(new URL(classifyPath(options.model), url).href));
  return parts.join(" ");
}

function classifyPath(model) {
  return model ? `v1/models/${encodeURIComponent(model)}/classify` : "v1/classify";
}

function fields({ model, ...options }) {
  return Object.entries(options).filter(([, value]) => value !== undefined && value !== null);
}

function form(files, options) {
  const data = new FormData();
  addFields(data, files);
  addFields(data, options);
  return data;
}

function isFile(value) {
  return typeof value === "object" && value !== null;
}

/** Add files and options to a form; `suffix`: of their names, the number of a clip. */
function addFields(data, values, suffix = "") {
  for (const [name, value] of fields(values)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (!isFile(each)) data.append(name + suffix, String(each));
      else data.append(name + suffix, each instanceof Blob ? each : new Blob([each]), each.name ?? name);
    }
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UnreachableError("The answer is no JSON: is this an scmrl service?", { cause: error });
  }
}

/** Return the error of a response, also of a proxy's. */
function problemOf({ status, headers }, text) {
  const after = retryAfterS(headers.get("Retry-After"));
  if ((headers.get("Content-Type") ?? "").includes("problem+json")) {
    try {
      const document = JSON.parse(text);
      if (Number.isInteger(document?.status)) return new ProblemError(document, after);
    } catch {
      // something between has changed it
    }
  }
  const detail = `Something between here and the service answered with status ${status}.`;
  return new ProblemError({ type: "about:blank", title: detail, status, detail }, after, true);
}

/** Return the seconds of a Retry-After, a number or a date; undefined if it is neither. */
function retryAfterS(value) {
  if (!value) return undefined;
  const seconds = Number.isNaN(Number(value)) ? (Date.parse(value) - Date.now()) / 1000 : Number(value);
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
}

/** Wait. Throws the signal's reason. */
function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort); // a page may have one signal for all its calls
      resolve();
    }, seconds * 1000);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** Return what a promise resolves to. Throws `error` where that takes longer, and the signal's reason. */
async function within(promise, seconds, error, signal) {
  const stop = new AbortController();
  const abort = () => stop.abort(signal.reason);
  signal?.addEventListener("abort", abort, { once: true });
  const limit = sleep(seconds, stop.signal).then(() => Promise.reject(error));
  limit.catch(() => {}); // it is stopped below
  try {
    return await Promise.race([promise, limit]);
  } finally {
    signal?.removeEventListener("abort", abort);
    stop.abort();
  }
}

function viewOf(data) {
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function quote(word) {
  return /^[\w./:=@%-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
