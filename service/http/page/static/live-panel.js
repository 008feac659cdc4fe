/** The tab of live streams: camera and microphone, and the answers to the last seconds. */

import { headline, probabilityCard, contributionCard } from "./answer-view.js";
import { captureObstacle, closeCapture, openCapture, takenDevices } from "./capture.js";
import { drawLayer, sampleMap } from "./colours.js";
import { byId, element, percent } from "./elements.js";
import { openSound, pictureObstacle, sendPictures } from "./live-sources.js";
import { PageError, plain, showProblem } from "./problem-view.js";

/** Answers in the history, and rows of probabilities. */
const HISTORY = 40;
const TOP_K = 10;

/** @param {object} page  as of clipPanel */
export function livePanel(page) {
  let session = null;
  const panel = byId("panel-live");
  const video = element("video", { playsinline: true, "aria-label": "Camera" });
  video.muted = true;
  const layer = element("canvas", { width: 160, height: 120, role: "img", "aria-label": "Map over the picture" });
  const view = element("div", { class: "view" }, video, layer);
  const start = element("button", { type: "button", class: "primary wide", text: "Start" });
  const camera = toggle("Camera", true);
  const microphone = toggle("Microphone", true);
  const withMap = toggle("Show map", true);
  const note = element("p", { class: "note" });
  panel.append(view, element("div", { class: "row" }, camera.label, microphone.label, withMap.label),
    element("div", { class: "row" }, start), note);

  const fail = (error) => {
    showProblem(byId("problem"), error);
    if (error?.kind === "key-needed") page.onKeyNeeded();
  };
  const setRunning = (running) => {
    start.textContent = running ? "Stop" : "Start";
    camera.box.disabled = running;
    microphone.box.disabled = running;
  };

  withMap.box.addEventListener("change", () => { layer.hidden = !withMap.box.checked; });
  start.addEventListener("click", () => (session ? session.stop() : run()));

  async function run() {
    fail(null);
    const aborting = new AbortController();
    const opened = { media: null, sound: null, stopPictures: () => {}, stream: null };
    session = {
      stop: () => (opened.stream ? opened.stream.close() : aborting.abort(new DOMException("", "AbortError"))),
    };
    setRunning(true);
    byId("status").textContent = "Starting.";
    try {
      await open(opened, aborting.signal);
      byId("status").textContent = "Streaming.";
      await answer(opened.stream);
    } catch (error) {
      if (!aborting.signal.aborted) fail(error);
    } finally {
      close(opened);
      session = null;
      setRunning(false);
      byId("status").textContent = "Stopped.";
    }
  }

  async function open(opened, signal) {
    const checked = { camera: camera.box.checked, microphone: microphone.box.checked };
    const card = await page.card();
    signal.throwIfAborted();
    const wanted = card ? takenDevices(card, checked) : checked;
    camera.box.checked = wanted.camera;
    microphone.box.checked = wanted.microphone;
    if (wanted.camera && pictureObstacle()) throw new PageError("Camera", pictureObstacle());
    opened.media = await openCapture(wanted);
    signal.throwIfAborted();
    const inputs = [];
    if (wanted.camera) {
      video.srcObject = opened.media;
      await video.play();
      view.style.setProperty("aspect-ratio", `${video.videoWidth} / ${video.videoHeight}`);
      inputs.push({ field: "frames", format: "jpeg" });
    }
    if (wanted.microphone) {
      opened.sound = await openSound(opened.media);
      inputs.push({ field: "audio", format: "pcm16", sample_rate: opened.sound.sampleRate, channels: 1 });
    }
    signal.throwIfAborted();
    const options = { ...page.settings.shared(), inputs, top_k: TOP_K, attention: "grid", class_activation: "grid" };
    opened.stream = await page.client().stream(options, { signal });
    const { stream } = opened;
    if (wanted.camera) opened.stopPictures = sendPictures(video, (jpeg, time) => stream.sendPicture(jpeg, time));
    opened.sound?.start((samples, time) => stream.sendSound(samples, time));
    const { window_s: windowS, hop_s: hopS } = stream.ready;
    note.textContent = `Each answer is about the last ${windowS} s; one every ${hopS} s.`;
  }

  function close(opened) {
    opened.stopPictures();
    opened.sound?.close();
    opened.stream?.abort();
    closeCapture(opened.media);
    video.srcObject = null;
    showMap(null);
  }

  async function answer(stream) {
    const history = [];
    let said = null;
    for await (const message of stream) {
      if (message.type === "problem") {
        note.textContent = plain(message.detail);
        continue;
      }
      const { class_activation: activation, attention } = message.result;
      const shown = activation?.maps.visual ? `what speaks for “${activation.label}”` : "attention";
      showMap((activation?.maps.visual ?? attention?.visual)?.spatial, shown);
      const probabilities = smoothed(message);
      history.push(probabilities[0]);
      if (history.length > HISTORY) history.shift();
      showAnswer(message, probabilities, history);
      const [{ label }] = probabilities;
      if (label !== said) byId("status").textContent = `Answer: ${label}.`; // changes alone are read out
      said = label;
    }
  }

  /** Show a map over the picture; `words` say which one it is. */
  function showMap(map, words) {
    withMap.text.textContent = map ? `Show map: ${words}` : "Show map";
    const context = layer.getContext("2d");
    context.clearRect(0, 0, layer.width, layer.height);
    if (map) drawLayer(context, mapWeights(map, layer));
  }

  return {
    show() {
      const obstacle = captureObstacle();
      fail(obstacle && new PageError("Camera and microphone", obstacle));
      start.disabled = obstacle !== null;
      byId("answer").replaceChildren(element("div", { class: "empty" },
        element("p", { class: "lead", text: "Classify a live stream" }),
        element("p", { text: "Camera and microphone are sent to this service while they are captured. Nothing is kept." }),
        element("p", { class: "note", text: "Press Start. What the checkpoint tells apart is under Settings." })));
    },
    hide: () => session?.stop(),
    /** Another checkpoint or T: the stream begins anew with it. */
    settingsChanged() {
      if (session) note.textContent = "The new settings hold from the next start.";
    },
  };
}

function toggle(text, checked) {
  const box = element("input", { type: "checkbox", checked });
  const words = element("span", { text });
  return { box, text: words, label: element("label", { class: "check" }, box, words) };
}

/** The smoothed probabilities of an answer, the most probable first. */
function smoothed({ smoothed: byLabel, result }) {
  const entries = Object.entries(byLabel);
  if (!entries.length) return result.probabilities; // a new segment has begun meanwhile
  return entries.map(([label, probability]) => ({ label, probability }))
    .sort((a, b) => b.probability - a.probability).slice(0, TOP_K);
}

function showAnswer(message, probabilities, history) {
  const top = headline(message.result, probabilities);
  top.append(historyStrip(history, message));
  byId("answer").replaceChildren(top,
    element("div", { class: "pair-of-cards" }, probabilityCard(probabilities), contributionCard(message.result, { label: probabilities[0].label })));
}

/** The labels of the last answers: the height of a bar is the probability. */
function historyStrip(history, message) {
  const bars = history.map((entry, i) => {
    const made = element("span", { class: "moment" }, element("i"),
      element("b", { text: i === 0 || history[i - 1].label !== entry.label ? entry.label : "" }));
    made.style.setProperty("--share", entry.probability);
    return made;
  });
  const facts = [`${Math.round(message.behind_ms)} ms behind the capture`, message.skipped && `${message.skipped} skipped`];
  return element("div", { class: "history" },
    element("div", { class: "moments", role: "img", "aria-label": `The last ${history.length} answers; now ${history.at(-1).label}, ${percent(history.at(-1).probability)}` }, ...bars),
    element("p", { class: "note", text: facts.filter(Boolean).join(" · ") }));
}

/** Weights of a map over a canvas that lies over the whole picture, whatever size was sent. */
function mapWeights(map, { width, height }) {
  const at = (edges, count) => Array.from({ length: count }, (_, i) => {
    const low = Math.max(edges[0], 0);
    return low + ((i + 0.5) / count) * (edges.at(-1) - low);
  });
  return sampleMap(map, at(map.row_edges, height), at(map.column_edges, width));
}
