/** Errors in words: of the service, of the connection, and of what the browser cannot do. */

import { ProblemError, StreamClosedError, UnreachableError } from "./client.js";
import { element } from "./elements.js";

/** What to do about a kind of error, where the service's detail does not say it for a page. */
const ADVICE = {
  "key-needed": "Enter your key under “API key” at the top of the page.",
  "key-refused": "Enter another key under “API key” at the top of the page.",
  "not-ready": "The checkpoint is still being loaded. Try again in a moment.",
  full: "Many clips are being classified. Try again in a moment.",
};

/** Something that the page or the browser cannot do; the message is for people. */
export class PageError extends Error {
  constructor(title, detail, options) {
    super(detail, options);
    this.title = title;
  }
}

/** Show an error in `place`, and bring it to view, or show nothing. @param {HTMLElement} place  @param {Error?} error */
export function showProblem(place, error) {
  place.replaceChildren();
  if (!error) return;
  const { title, detail, advice, facts } = describe(error);
  const box = element("div", { class: "card problem", role: "alert" },
    element("h2", { text: title }), element("p", { text: detail }));
  if (advice) box.append(element("p", { text: advice }));
  if (facts) box.append(element("p", { class: "note", text: facts }));
  place.append(box);
  box.scrollIntoView({ block: "nearest" });
}

/** Return title, detail, advice and facts of an error. */
export function describe(error) {
  if (error instanceof ProblemError) {
    const facts = [`Status ${error.status}`, error.kind !== "blank" && error.kind,
      error.field && `field ${error.field}`, error.id && `request ${error.id}`];
    let advice = ADVICE[error.kind];
    if (error.retryAfterS !== undefined && !advice) {
      advice = `Try again in ${Math.ceil(error.retryAfterS)} s.`;
    }
    return { title: error.title, detail: plain(error.detail), advice,
      facts: facts.filter(Boolean).join(" · ") };
  }
  if (error instanceof UnreachableError) return { title: "No answer", detail: error.message };
  if (error instanceof StreamClosedError) {
    return { title: "The stream ended", detail: plain(error.message), facts: `Close code ${error.code}` };
  }
  if (error instanceof PageError) return { title: error.title, detail: error.message };
  console.error(error);
  return { title: "The page failed", detail: `${error?.message ?? error}` };
}

/** Details quote names in backticks, which are not drawn here. */
export function plain(text) {
  return text.replaceAll("`", "");
}
