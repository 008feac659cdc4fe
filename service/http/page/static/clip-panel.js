/** The tab of clips: files that are dropped, chosen, recorded or examples, and their answer. */

import { headline, energyCard, probabilityCard, requestCard, contributionCard } from "./answer-view.js";
import { mapsCard } from "./maps-view.js";
import { curlCommand } from "./client.js";
import { byId, element } from "./elements.js";
import { exampleItems } from "./examples.js";
import { PageError, showProblem } from "./problem-view.js";
import { openRecorder, recordObstacle } from "./recorder.js";

/** Upload fields, and what they are in words. */
const FIELDS = {
  clip: "sound and picture", video: "picture", audio: "sound", frames: "pictures",
  events: "camera events", audio_events: "cochlea events",
};

/**
 * @param {object} page  `client()`, `settings` (settings-panel.js), `card()` of the chosen checkpoint,
 *     `limits` (page/settings.json), `onKeyNeeded()`
 */
export function clipPanel(page) {
  /** Chosen files with their upload fields, in the order of choice. */
  let chosen = [];
  let request = null;
  let closeRecorder = null;
  let answered = false;

  const say = (text) => { byId("status").textContent = text; };
  const fail = (error) => {
    if (error?.name === "AbortError") return;
    showProblem(byId("problem"), error);
    if (error?.kind === "key-needed") page.onKeyNeeded();
  };

  const choose = (files) => {
    chosen = files;
    answered = false;
    closeRecorder?.();
    closeRecorder = null;
    showChosen();
  };
  const add = (files) => {
    fail(null);
    const tooLarge = files.find((file) => file.size > page.limits.max_file_bytes);
    if (tooLarge) {
      const most = Math.floor(page.limits.max_file_bytes / 2 ** 20);
      fail(new PageError("The file is too large", `${tooLarge.name} has ${sizeOf(tooLarge)}; the service takes at most ${most} MiB.`));
      return;
    }
    choose(assignFields(files));
  };

  const showChosen = () => {
    const place = byId("chosen");
    place.hidden = !chosen.length;
    byId("drop").hidden = chosen.length > 0;
    place.replaceChildren();
    if (!chosen.length) return;
    const list = element("ul", { class: "files" }, ...chosen.map((entry) => fileItem(entry)));
    const send = element("button", { type: "button", class: "primary wide", id: "classify", text: "Classify", on: { click: classify } });
    place.append(preview(chosen), list, element("div", { class: "row" }, send,
      element("button", { type: "button", text: "Other clip", on: { click: () => {
        choose([]);
        byId("choose").focus();
      } } })));
  };

  const classify = async () => {
    request?.abort();
    request = new AbortController();
    const { signal } = request;
    fail(null);
    const media = groupByField(chosen);
    const options = page.settings.upload();
    say("Classifying.");
    byId("answer").setAttribute("aria-busy", "true");
    try {
      const client = page.client();
      const answer = await client.classify(media, { ...options, signal });
      const names = Object.fromEntries(Object.entries(media).map(([field, files]) => [field, files.map((file) => file.name)]));
      const command = curlCommand(client.url, names, options, Boolean(client.key));
      const maps = await mapsCard(answer, media);
      signal.throwIfAborted();
      showAnswer(answer, command, maps);
      showFromTop();
      answered = true;
      say(answer.abstained ? "Answer: no label." : `Answer: ${answer.prediction.label}.`);
    } catch (error) {
      if (signal.aborted) return;
      say("");
      answered = false;
      byId("answer").replaceChildren();
      fail(error);
    }
    byId("answer").removeAttribute("aria-busy");
  };

  const drop = byId("drop"), panel = byId("panel-clip");
  // Anywhere on the page, also where a clip has been chosen, which another one replaces.
  document.addEventListener("dragover", () => panel.classList.add("over"));
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) panel.classList.remove("over"); // it has left the window
  });
  document.addEventListener("drop", (event) => {
    panel.classList.remove("over");
    if (!panel.hidden && event.dataTransfer.files.length) add([...event.dataTransfer.files]);
  });
  byId("choose").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", (event) => {
    if (event.target.files.length) add([...event.target.files]);
    event.target.value = "";
  });
  byId("record").addEventListener("click", () => {
    fail(null);
    const obstacle = recordObstacle();
    if (obstacle) {
      fail(new PageError("Recording", obstacle));
      return;
    }
    drop.hidden = true;
    closeRecorder = openRecorder(byId("recorder"), {
      maxDurationS: page.limits.max_duration_s,
      card: page.card,
      onClip: (field, file) => choose([{ field, file }]),
      onError: fail,
      onClose: () => {
        drop.hidden = false;
        byId("record").focus();
      },
    });
  });

  return {
    /** Show the examples of the checkpoints that are served. */
    showExamples() {
      const items = exampleItems(page.settings.has, (files, model) => {
        page.settings.choose(model);
        choose(Object.entries(files).flatMap(([field, list]) => list.map((file) => ({ field, file }))));
        classify();
      }, fail);
      byId("examples").replaceChildren(...items);
      byId("examples-of-all").hidden = !items.length;
    },

    /** The settings have changed: answer again what has been answered. */
    settingsChanged() {
      if (answered) classify();
    },

    show() {
      fail(null);
      showIntroduction();
      answered = false;
    },

    hide() {
      request?.abort();
      closeRecorder?.();
      closeRecorder = null;
      drop.hidden = chosen.length > 0;
    },
  };

  function fileItem(entry) {
    const select = element("select", { "aria-label": `What ${entry.file.name} is` }, ...Object.entries(FIELDS)
      .map(([field, words]) => element("option", { value: field, text: words, selected: field === entry.field })));
    select.addEventListener("change", () => { entry.field = select.value; });
    return element("li", {}, element("span", { class: "name", text: entry.file.name }),
      element("span", { class: "note", text: sizeOf(entry.file) }), select);
  }
}

/** Put the cards of an answer where answers are. */
function showAnswer(answer, command, maps) {
  const cards = [headline(answer),
    element("div", { class: "pair-of-cards" }, probabilityCard(answer.probabilities), contributionCard(answer)),
    maps, energyCard(answer), requestCard(command, answer)];
  byId("answer").replaceChildren(...cards.filter(Boolean));
}

/** Where answers stand below the clip, bring them to view. */
function showFromTop() {
  const place = document.querySelector(".answers");
  if (place.getBoundingClientRect().top > window.innerHeight * 0.7) place.scrollIntoView();
}

function showIntroduction() {
  byId("answer").replaceChildren(element("div", { class: "empty" },
    element("p", { class: "lead", text: "Classify a clip" }),
    element("p", { text: "The answer has a probability for each label, the contributions of sound and picture, and maps of what they rest on." }),
    element("p", { class: "note", text: "Drop a clip, record one, or begin with an example." })));
}

/** Play the chosen clip, sound or picture. */
function preview(chosen) {
  const [{ field, file }] = chosen;
  if (field === "events" || field === "audio_events") return element("p", { class: "note", text: "Events cannot be played." });
  const url = URL.createObjectURL(file);
  if (field === "frames") return element("img", { class: "preview", src: url, alt: `The first of ${chosen.length} files` });
  const player = element(field === "audio" ? "audio" : "video", { class: "preview", src: url, controls: true, playsinline: true, "aria-label": file.name });
  // The first picture of many clips is blank.
  player.addEventListener("loadedmetadata", () => {
    if (field !== "audio" && Number.isFinite(player.duration)) player.currentTime = player.duration / 2;
  }, { once: true });
  player.addEventListener("error", () => {
    player.replaceWith(element("p", { class: "note", text: `This browser cannot play ${file.name}; the service may still read it.` }));
  });
  return player;
}

/** Guess the upload field of each file: one video is a clip; with a sound it is the picture. */
export function assignFields(files) {
  const entries = files.map((file) => ({ file, field: fieldOf(file) }));
  const sounds = entries.filter(({ field }) => field === "audio");
  for (const entry of entries) if (entry.field === "clip" && sounds.length) entry.field = "video";
  return entries;
}

function fieldOf({ name, type }) {
  if (/\.(bs2|bin|raw|aedat4?)$/i.test(name)) return "events";
  if (/\.npz$/i.test(name)) return "audio_events";
  if (type.startsWith("audio/")) return "audio";
  if (type.startsWith("image/") && type !== "image/gif") return "frames";
  return "clip";
}

function groupByField(entries) {
  const groups = {};
  for (const { field, file } of entries) (groups[field] ??= []).push(file);
  return groups;
}

function sizeOf({ size }) {
  return size < 2 ** 20 ? `${Math.ceil(size / 1024)} KiB` : `${(size / 2 ** 20).toFixed(1)} MiB`;
}
