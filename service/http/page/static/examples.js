/** The example clips that come with the page. */

import { element } from "./elements.js";
import { PageError } from "./problem-view.js";

/** Files by upload field, the checkpoint that they are for, and a still picture of each. */
const EXAMPLES = [
  { text: "A seven, drawn and spoken", model: "avdigits", still: "digit-7.jpg", files: { clip: "digit-7.webm" } },
  { text: "Picture of a seven, sound of a three", model: "avdigits", still: "digit-7.jpg",
    files: { video: "digit-7.webm", audio: "digit-3.webm" } },
  { text: "An eight, shown by hand", model: "handsigns", still: "hand-8.jpg", files: { clip: "hand-8.mp4" } },
  { text: "A drone", model: "drones", still: "drone.jpg", files: { clip: "drone.mp4" } },
  { text: "A drone, classified as a digit", model: "avdigits", still: "drone.jpg", files: { clip: "drone.mp4" } },
  { text: "A seven, as events", model: "ndigits-events", still: "digit-7-events.jpg",
    files: { events: "digit-7.bs2", audio_events: "digit-7.npz" } },
];

/**
 * Return a list item for each example whose checkpoint is served.
 *
 * @param {(model: string) => boolean} isServed
 * @param {(files: {[field: string]: File[]}, model: string) => void} onChoose
 * @param {(error: Error) => void} onError
 */
export function exampleItems(isServed, onChoose, onError) {
  return EXAMPLES.filter(({ model }) => isServed(model)).map((example) => {
    const button = element("button", { type: "button", class: "example" },
      element("img", { src: address(example.still), alt: "", width: 120, height: 90, loading: "lazy" }),
      element("span", { text: example.text }));
    button.addEventListener("click", () => load(example.files).then((files) => onChoose(files, example.model), onError));
    return element("li", {}, button);
  });
}

async function load(names) {
  const fields = Object.entries(names).map(async ([field, name]) => {
    const response = await fetch(address(name)).catch(() => null);
    if (!response?.ok) throw new PageError("No example", `The example ${name} could not be loaded: the service may have stopped.`);
    const blob = await response.blob();
    return [field, [new File([blob], name, { type: blob.type })]];
  });
  return Object.fromEntries(await Promise.all(fields));
}

function address(name) {
  return new URL(`examples/${name}`, import.meta.url).href;
}
