/** The parts of an answer: label, probabilities, the streams' contributions, energy, and the request. */

import { copyButton, element, percent, signed } from "./elements.js";
import { plain } from "./problem-view.js";

/** Rows of the table of probabilities before "Show all". */
const MAX_ROWS = 10;
/** Longest text of a member that is shown in JSON; overlays are far longer. */
const MAX_TEXT = 80;

/** The names of streams for people. */
const NAMES = { audio: "Sound", visual: "Picture", bias: "Bias" };

/** @param {string} stream */
export function streamName(stream) {
  return NAMES[stream] ?? stream;
}

/**
 * The label, its probability, and how far the clip is from known ones.
 *
 * @param {import("./client.js").Answer} answer
 * @param {Probability[]} [probabilities]  other ones than the answer's, as the smoothed ones
 */
export function headline(answer, probabilities = answer.probabilities) {
  const [first] = probabilities;
  const card = element("section", { class: "card headline", "aria-label": "Label" },
    element("div", { class: "label-box" },
      element("p", { class: "eyebrow", text: `${answer.model.name} ${answer.model.version}` }),
      answer.abstained
        ? element("p", { class: "label abstained", text: "No label" })
        : element("p", { class: "label", text: first.label }),
      element("p", { class: "probability", text: answer.abstained
        ? `abstained; nearest is ${first.label}, ${percent(first.probability)}`
        : percent(first.probability) })));
  const facts = element("dl", { class: "facts" });
  if (answer.out_of_domain !== undefined) {
    facts.append(fact("Out-of-distribution score", answer.out_of_domain.toFixed(2),
      answer.out_of_domain > 1
        ? "Higher than that of nearly all known clips: this may be none of the labels."
        : "Nearly all known clips score below 1.",
      answer.out_of_domain > 1 ? "warn" : undefined));
  }
  facts.append(
    fact("Time steps", `${answer.steps}`, answer.degraded ? "Lowered because of the load." : undefined),
    fact("Time", `${Math.round(answer.timing_ms.total)} ms`,
      `decoding ${Math.round(answer.timing_ms.decode)}, network ${Math.round(answer.timing_ms.inference)}`));
  card.append(facts);
  return card;
}

function fact(name, value, note, tone) {
  return element("div", { class: tone }, element("dt", { text: name }),
    element("dd", { text: value }), note ? element("dd", { class: "note", text: note }) : "");
}

/** Bars of probability, the most probable first. @param {Probability[]} probabilities */
export function probabilityCard(probabilities) {
  const body = element("tbody", {}, ...probabilities.map((entry, i) =>
    element("tr", { class: i === 0 ? "first" : undefined, hidden: i >= MAX_ROWS },
      element("th", { scope: "row", text: entry.label }),
      element("td", { "aria-hidden": "true" }, bar(entry.probability)),
      element("td", { class: "number", text: percent(entry.probability) }))));
  const card = element("section", { class: "card" }, element("h2", { text: "Probabilities" }),
    table("Probability of each label", ["Label", null, "Probability"], body));
  if (probabilities.length > MAX_ROWS) {
    const more = element("button", { type: "button", class: "small", text: `Show all ${probabilities.length}` });
    more.addEventListener("click", () => {
      [...body.rows].forEach((row) => { row.hidden = false; });
      more.remove();
    });
    card.append(more);
  }
  return card;
}

function bar(share) {
  const made = element("span", { class: "bar" });
  made.style.setProperty("--share", share);
  return made;
}

/** A table whose caption and heads are read but not drawn; null heads a column of bars. */
function table(caption, heads, body) {
  return element("table", { class: "bars" },
    element("caption", { class: "visually-hidden", text: caption }),
    element("thead", { class: "visually-hidden" }, element("tr", {},
      ...heads.map((head) => head === null
        ? element("td", { "aria-hidden": "true" }) : element("th", { scope: "col", text: head })))),
    body);
}

/**
 * Each stream's contribution to a label's logit, and what changes without the stream.
 *
 * @param {import("./client.js").Answer} answer
 * @param {{label?: string}} [options]  the label; without it, any of them can be chosen
 */
export function contributionCard(answer, { label } = {}) {
  const body = element("div");
  const card = element("section", { class: "card" });
  const labels = answer.probabilities.map((entry) => entry.label)
    .filter((label) => label in answer.contributions.bias);
  const shown = labels.includes(label) ? label : labels[0];
  if (label === undefined) {
    const select = element("select", { "aria-label": "Label whose contributions are shown" },
      ...labels.map((label) => element("option", { value: label, text: label })));
    select.addEventListener("change", () => body.replaceChildren(...contributions(answer, select.value)));
    card.append(element("div", { class: "split" }, element("h2", { text: "Contribution of each stream" }),
      element("span", { class: "note" }, "to ", select)));
  } else {
    card.append(element("h2", { text: `Contribution of each stream to ${shown}` }));
  }
  body.append(...contributions(answer, shown));
  card.append(body);
  return card;
}

function contributions(answer, label) {
  const terms = Object.entries(answer.contributions).map(([stream, values]) => [stream, values[label]]);
  const logit = terms.reduce((sum, [, value]) => sum + value, 0);
  const changes = Object.entries(answer.leave_one_out?.changes ?? {})
    .map(([stream, values]) => [stream, values[label]]);
  const scale = Math.max(...[...terms, ...changes].map(([, value]) => Math.abs(value)), 1e-9);
  const parts = [
    contributionTable(`Terms of the logit of ${label}`, terms, scale, answer.streams),
    element("p", { class: "note", text: `The contributions add up to the logit, ${signed(logit)}.` }),
  ];
  if (changes.length) {
    parts.push(element("h3", { text: "What each stream changes" }),
      contributionTable(`Change of the logit of ${label} by each stream`, changes, scale, answer.streams),
      element("p", { class: "note", text: "The logit with all streams, minus that without the stream." }));
  } else if (answer.leave_one_out?.reason) {
    parts.push(element("p", { class: "note", text: `What each stream changes: ${plain(answer.leave_one_out.reason)}.` }));
  }
  for (const [stream, info] of Object.entries(answer.streams)) {
    if (!info.used) {
      parts.push(element("p", { class: "note", text: `${streamName(stream)} was not used: ${plain(info.reason ?? "it is missing")}.` }));
    }
  }
  return parts;
}

function contributionTable(caption, entries, scale, streams) {
  const body = element("tbody", {}, ...entries.map(([stream, value]) => {
    const made = element("span", { class: `diverging ${stream} ${value < 0 ? "against" : "for"}` });
    made.style.setProperty("--share", Math.abs(value) / scale);
    const unused = streams[stream] && !streams[stream].used;
    return element("tr", { class: unused ? "unused" : undefined },
      element("th", { scope: "row", text: streamName(stream) }),
      element("td", { "aria-hidden": "true" }, made),
      element("td", { class: "number", text: signed(value) }));
  }));
  return table(caption, ["Stream", null, "Contribution"], body);
}

/** Energy of the clip, beside that of a network without spikes; null without diagnostics. */
export function energyCard(answer) {
  if (!answer.diagnostics) return null;
  const { energy_uj: spiking, dense_energy_uj: dense, layers } = answer.diagnostics;
  const largest = Math.max(spiking, dense);
  const rows = [["Spiking network", spiking, "first"], ["Without spikes", dense, undefined]];
  const body = element("tbody", {}, ...rows.map(([name, value, tone]) => element("tr", { class: tone },
    element("th", { scope: "row", text: name }), element("td", { "aria-hidden": "true" }, bar(value / largest)),
    element("td", { class: "number", text: `${value.toFixed(1)} µJ` }))));
  const heads = ["Layer", "Firing rate", "Accumulates", "Multiply-accumulates"];
  const detail = element("tbody", {}, ...Object.entries(layers).map(([name, layer]) => element("tr", {},
    element("th", { scope: "row", text: name }),
    element("td", { class: "number", text: layer.firing_rate === undefined ? "" : percent(layer.firing_rate) }),
    element("td", { class: "number", text: layer.accumulates.toLocaleString("en") }),
    element("td", { class: "number", text: layer.multiply_accumulates.toLocaleString("en") }))));
  return element("section", { class: "card" }, element("h2", { text: "Energy" }),
    table("Energy", ["Network", null, "Energy"], body),
    element("p", { class: "note", text: `This clip takes ${percent(spiking / dense)} of the energy of a network without spikes with the same layers, run once. `
      + "An estimate: 0.9 pJ per accumulate, 4.6 pJ per multiply-accumulate; neurons and memory are not counted." }),
    element("details", { class: "more" }, element("summary", { text: `${Object.keys(layers).length} layers` }),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Layers" },
        element("table", { class: "plain" },
          element("thead", {}, element("tr", {}, ...heads.map((head, i) =>
            element("th", { scope: "col", class: i ? "number" : undefined, text: head })))),
          detail))));
}

/** The command that sends the same, and the answer as it came. */
export function requestCard(command, answer) {
  const shown = JSON.stringify(answer, (_, value) =>
    typeof value === "string" && value.length > MAX_TEXT ? `… ${value.length} characters` : value, 2);
  return element("section", { class: "card" }, element("h2", { text: "Request" }),
    code("The same on a command line", command, () => command),
    element("details", { class: "more" }, element("summary", { text: "Answer as JSON" }),
      code("Answer as JSON", shown, () => JSON.stringify(answer, null, 2))));
}

function code(label, text, full) {
  return element("div", { class: "code" },
    element("pre", { tabindex: "0", role: "region", "aria-label": label }, element("code", { text })),
    copyButton("Copy", full));
}
