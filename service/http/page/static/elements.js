/** Make and fill elements of the page. Text is always set as text, never parsed as HTML. */

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {object} [attributes]  `class`, `text`, `on` (listeners by event) and attributes; those
 *     that are undefined, null or false are left out
 * @param {...(Node | string)} children
 */
export function element(tag, { text, on, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value);
  }
  if (text !== undefined) made.textContent = text;
  for (const [event, listener] of Object.entries(on ?? {})) made.addEventListener(event, listener);
  made.append(...children);
  return made;
}

/** Return the element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A probability in words: never 100 % unless it is 1. */
export function percent(value) {
  const rounded = value * 100;
  if (value > 0 && rounded < 0.01) return "< 0.01 %";
  if (value < 1 && rounded >= 99.995) return "> 99.99 %";
  const isNearAnEnd = rounded < 9.995 || (value < 1 && rounded >= 99.95);
  return `${rounded.toFixed(isNearAnEnd ? 2 : 1)} %`;
}

/** A number with its sign; +0.00 for all that round to zero. */
export function signed(value) {
  const rounded = Math.abs(value).toFixed(2);
  return `${value < 0 && Number(rounded) ? "−" : "+"}${rounded}`;
}

/** A button that copies a text, and says so. */
export function copyButton(label, textOf) {
  const button = element("button", { type: "button", class: "small", text: label });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(textOf());
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser does not allow it";
    }
    setTimeout(() => {
      button.textContent = label;
    }, 2000);
  });
  return button;
}
