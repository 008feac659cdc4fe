/** Maps over the picture and the spectrogram, at a time that a slider chooses. */

import { blend, sampleMap } from "./colours.js";
import { element } from "./elements.js";
import { decodeSound, spectrogram } from "./spectrogram.js";
import { streamName } from "./answer-view.js";

/** Size of a drawn spectrogram, and the longest side of a drawn picture, in pixels. */
const PLOT = { width: 560, height: 420 };
const MAX_SIDE = 640;

/**
 * Make the card of an answer's maps; null where it has none. `media` is what was sent, by field.
 *
 * @param {import("./client.js").Answer} answer
 * @param {{[field: string]: File[]}} media
 * @returns {Promise<HTMLElement | null>}
 */
export async function mapsCard(answer, media) {
  const kinds = kindsOf(answer);
  if (!kinds.length) return null;
  const player = await openPlayer((media.clip ?? media.video ?? [])[0]);
  const soundFile = (media.clip ?? media.audio ?? [])[0];
  const sound = soundFile ? await decodeSound(soundFile) : null;
  const card = element("section", { class: "card maps" }, element("h2", { text: "Maps" }));
  const figures = element("div", { class: "figures" });
  const drawn = [];
  const streams = new Set(kinds.flatMap(({ maps }) => Object.keys(maps)));
  for (const stream of [...streams].sort(pictureFirst)) {
    const figure = await makeFigure(stream, kinds, { player, sound, pictures: media.frames });
    figures.append(figure.node);
    drawn.push(figure);
  }
  const note = element("p", { class: "note" });
  let kind = kinds[0];
  const controls = timeControls(player, sound, media.frames, answer.steps, (time) => {
    drawn.forEach((figure) => figure.draw(time, kind));
  });
  const choice = kindChoice(kinds, (chosen) => {
    kind = chosen;
    note.textContent = chosen?.note ?? "";
    controls.redraw();
  });
  card.append(choice, figures, controls.node, note, ...temporalParts(Object.entries(answer.attention ?? {})));
  note.textContent = kind.note;
  controls.redraw();
  return card;
}

/** The kinds of maps of an answer, each with its maps by stream, and words about it. */
function kindsOf(answer) {
  const activation = answer.class_activation;
  const attention = Object.fromEntries(Object.entries(answer.attention ?? {}).filter(([, map]) => map.spatial));
  return [
    activation && { maps: activation.maps, title: `What speaks for “${activation.label}”`, words: "What adds most to the label",
      note: `What is bright adds to the logit of “${activation.label}”. All values of a stream sum to its contribution; `
        + "what is negative is not shown." },
    { maps: attention, title: "Attention", words: "Attention",
      note: "The mean over all time steps: over the picture, where the sound attends; over the spectrogram, where the "
        + "picture attends. It says where attention looks, not why." },
  ].filter((kind) => kind && Object.keys(kind.maps).length);
}

/** Radio buttons for the kinds of maps, and for none. */
function kindChoice(kinds, choose) {
  const options = [...kinds, null].map((kind, i) => {
    const box = element("input", { type: "radio", name: "map-kind", checked: i === 0 });
    box.addEventListener("change", () => choose(kind));
    return element("label", { class: "check" }, box, element("span", { text: kind?.title ?? "None" }));
  });
  return element("div", { class: "row", role: "radiogroup", "aria-label": "Map that is shown" }, ...options);
}

function pictureFirst(a, b) {
  return Number(b === "visual") - Number(a === "visual");
}

/** Load a file into a video element that is not shown; null where the browser cannot play it. */
async function openPlayer(file) {
  if (!file) return null;
  const player = element("video", { playsinline: true, preload: "auto" });
  player.src = URL.createObjectURL(file);
  const loaded = await new Promise((resolve) => {
    player.onloadeddata = () => resolve(player.videoWidth > 0);
    player.onerror = () => resolve(false);
  });
  if (!loaded) {
    URL.revokeObjectURL(player.src);
    return null;
  }
  if (!Number.isFinite(player.duration)) await findDuration(player);
  return player;
}

/** A recording has no duration in its header: seek beyond its end to learn it. */
function findDuration(player) {
  return new Promise((resolve) => {
    player.ondurationchange = () => {
      if (Number.isFinite(player.duration)) {
        player.ondurationchange = null;
        player.currentTime = 0;
        resolve();
      }
    };
    player.currentTime = 1e9;
  });
}

/** One stream's figure: drawn here where that is possible, else the service's PNGs. `draw` shows one kind of map, or none. */
async function makeFigure(stream, kinds, { player, sound, pictures }) {
  const caption = element("figcaption", { text: streamName(stream) });
  const own = kinds.filter(({ maps }) => stream in maps);
  const { spatial } = own[0].maps[stream]; // all kinds have the same cells
  const isPicture = spatial.rows === "y" && spatial.columns === "x";
  const maps = new Map(own.map((kind) => [kind, kind.maps[stream].spatial]));
  let draw = null;
  const canvas = element("canvas", { role: "img" });
  if (isPicture && player) draw = drawFrames(canvas, maps, () => player, player.videoWidth, player.videoHeight);
  else if (isPicture && pictures) draw = await drawPictures(canvas, maps, pictures);
  else if (spatial.rows === "frequency_hz" && sound) draw = drawSpectrogram(canvas, maps, sound);
  const image = draw ? canvas : element("img", {});
  const show = (time, kind) => {
    const map = kind?.maps[stream];
    const words = describeMap(stream, map?.spatial, kind?.words);
    if (draw) {
      draw(time, kind);
      image.setAttribute("aria-label", words);
    } else {
      image.hidden = !map;
      image.alt = words;
      if (map && image.dataset.kind !== kind.title) image.src = `data:image/png;base64,${map.overlay_png}`;
      image.dataset.kind = kind?.title ?? "";
    }
  };
  return { node: element("figure", { class: isPicture || draw ? undefined : "plot" }, caption, image), draw: show };
}

/** Say in words where a map is strongest. */
export function describeMap(stream, map, words) {
  if (!map) return `${streamName(stream)}: no map.`;
  const { values, rows, columns, row_edges: rowEdges, column_edges: columnEdges } = map;
  const maximum = Math.max(...values.flat());
  if (!(maximum > 0)) return `${streamName(stream)}: nothing in the map.`;
  const row = values.findIndex((cells) => cells.includes(maximum));
  const column = values[row].indexOf(maximum);
  const range = (edges, i, axis) => `${axis.replace("_", " in ")} ${round(edges[i])} to ${round(edges[i + 1])}`;
  return `${words}, over ${streamName(stream).toLowerCase()}: strongest at `
    + `${range(columnEdges, column, columns)}, ${range(rowEdges, row, rows)}.`;
}

function round(value) {
  return Math.abs(value) < 20 ? value.toFixed(2) : value.toFixed(0);
}

function drawFrames(canvas, maps, sourceAt, sourceWidth, sourceHeight) {
  const scale = Math.min(1, MAX_SIDE / Math.max(sourceWidth, sourceHeight));
  canvas.width = Math.round(sourceWidth * scale);
  canvas.height = Math.round(sourceHeight * scale);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const weights = sampleMaps(maps, positions(0, sourceHeight, canvas.height), positions(0, sourceWidth, canvas.width));
  return (time, kind) => {
    context.drawImage(sourceAt(time), 0, 0, canvas.width, canvas.height);
    if (weights.has(kind)) blend(context, weights.get(kind));
  };
}

/** The weights of each kind's map at every position. */
function sampleMaps(maps, rows, columns) {
  return new Map([...maps].map(([kind, map]) => [kind, sampleMap(map, rows, columns)]));
}

async function drawPictures(canvas, maps, files) {
  try {
    const pictures = await Promise.all(files.map((file) => createImageBitmap(file)));
    const [{ width, height }] = pictures;
    // The slider counts pictures then, from 0.
    return drawFrames(canvas, maps, (at) => pictures[Math.min(Math.floor(at), pictures.length - 1)], width, height);
  } catch {
    return null;
  }
}

function drawSpectrogram(canvas, maps, { samples, durationS }) {
  const [spatial] = maps.values();
  Object.assign(canvas, PLOT);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const { width, height } = canvas;
  const edges = spatial.row_edges;
  const begin = Math.min(0, spatial.column_edges[0]);
  const end = Math.max(durationS, spatial.column_edges.at(-1));
  const times = positions(begin, end, width);
  // Low frequencies are at the bottom; rows are as far apart as those of the network.
  const frequencies = positions(0, edges.length - 1, height).reverse().map((at) => interpolate(edges, at));
  const plot = greyImage(context, spectrogram(samples, times, frequencies));
  const weights = sampleMaps(maps, frequencies, times);
  return (time, kind) => {
    context.putImageData(plot, 0, 0);
    if (weights.has(kind)) blend(context, weights.get(kind));
    drawAxes(context, frequencies, begin, end);
    const x = ((time - begin) / (end - begin)) * width;
    context.fillStyle = "#fff";
    context.fillRect(Math.min(Math.max(x, 0), width - 2), 0, 2, height);
  };
}

function drawAxes(context, frequencies, begin, end) {
  const { width, height } = context.canvas;
  context.font = "600 15px system-ui, sans-serif";
  context.fillStyle = "#fff";
  context.shadowColor = "#000";
  context.shadowBlur = 4;
  for (const hz of [250, 1000, 2000, 4000, 8000]) {
    const y = frequencies.findIndex((value) => value <= hz);
    if (y > 16 && y < height - 44) context.fillText(hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`, 8, y + 5);
  }
  context.textAlign = "center";
  const step = [0.25, 0.5, 1, 2, 5, 10, 20].find((each) => (end - begin) / each <= 8) ?? 60;
  for (let time = step; time < end - step / 4; time += step) {
    context.fillText(`${+time.toFixed(2)} s`, ((time - begin) / (end - begin)) * width, height - 8);
  }
  context.textAlign = "start";
  context.shadowBlur = 0;
}

function greyImage(context, levels) {
  const image = context.createImageData(context.canvas.width, context.canvas.height);
  levels.forEach((level, i) => {
    const grey = 18 + 190 * level;
    image.data.set([grey, grey, grey + 4, 255], i * 4);
  });
  return image;
}

/** Centres of `count` equal parts from `low` to `high`. */
function positions(low, high, count) {
  return Array.from({ length: count }, (_, i) => low + ((i + 0.5) / count) * (high - low));
}

function interpolate(values, at) {
  const low = Math.min(Math.floor(at), values.length - 2);
  return values[low] + (values[low + 1] - values[low]) * (at - low);
}

/** The slider over time, and a button that plays the clip. */
function timeControls(player, sound, pictures, steps, draw) {
  const node = element("div", { class: "timeline" });
  const duration = player?.duration ?? (sound ? sound.durationS : (pictures?.length ?? 0));
  if (!duration) return { node, redraw: () => draw(0) };
  const unit = player || sound ? "s" : "pictures";
  const picture = (time) => Math.min(Math.floor(time) + 1, duration); // the slider's end is the last one's
  const slider = element("input", { type: "range", min: 0, max: duration.toFixed(2), step: 0.01, value: 0, "aria-label": "Time in the clip" });
  const shown = element("output", { class: "number" });
  const redraw = () => {
    const time = Number(slider.value);
    shown.textContent = unit === "s" ? `${time.toFixed(2)} s` : `${picture(time)} of ${duration}`;
    slider.setAttribute("aria-valuetext", unit === "s" ? `${time.toFixed(2)} seconds` : `picture ${picture(time)} of ${duration}`);
    draw(time);
  };
  slider.addEventListener("input", () => {
    if (player) player.currentTime = Number(slider.value);
    redraw();
  });
  if (player) {
    node.append(playButton(player, slider, redraw));
    player.addEventListener("seeked", redraw);
    player.currentTime = duration / 2;
  }
  slider.value = duration / 2; // in the middle, where something is to be seen
  node.append(slider, shown);
  return { node, redraw };
}

function playButton(player, slider, redraw) {
  const button = element("button", { type: "button", class: "small play", text: "Play" });
  const follow = () => {
    slider.value = player.currentTime;
    redraw();
    if (!player.paused && !player.ended && button.isConnected) requestAnimationFrame(follow);
    else {
      player.pause();
      button.textContent = "Play";
    }
  };
  button.addEventListener("click", async () => {
    if (!player.paused) {
      player.pause();
      return;
    }
    if (player.ended || player.currentTime >= player.duration - 0.05) player.currentTime = 0;
    await player.play();
    button.textContent = "Pause";
    requestAnimationFrame(follow);
  });
  return button;
}

/** Attention between time steps, as small tables of colours; nothing for one step. */
function temporalParts(maps) {
  const shown = maps.filter(([, map]) => (map.temporal?.values.length ?? 0) > 1);
  if (!shown.length) return [];
  return [element("details", { class: "more" }, element("summary", { text: "Attention between time steps" }),
    element("div", { class: "figures temporal" }, ...shown.map(([stream, map]) => temporalFigure(stream, map.temporal.values))),
    element("p", { class: "note", text: "Rows: the step that attends. Columns: the step that it attends to." }))];
}

function temporalFigure(stream, values) {
  const cell = 16;
  const canvas = element("canvas", { role: "img", width: values.length * cell, height: values.length * cell,
    "aria-label": `${streamName(stream)}: attention between ${values.length} time steps` });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const edges = values.map((_, i) => i).concat(values.length);
  const at = Array.from({ length: canvas.width }, (_, i) => Math.floor(i / cell) + 0.5);
  context.fillStyle = "#14161a";
  context.fillRect(0, 0, canvas.width, canvas.height);
  blend(context, sampleMap({ values, row_edges: edges, column_edges: edges }, at, at));
  return element("figure", {}, element("figcaption", { text: streamName(stream) }), canvas);
}
