/** Record a clip by camera and microphone. */

import { captureObstacle, closeCapture, openCapture, takenDevices } from "./capture.js";
import { element } from "./elements.js";
import { PageError } from "./problem-view.js";

const LENGTHS_S = [1, 2, 3, 5, 10];
const DEFAULT_S = 2;
/** A recording of fewer bytes is a header without content. */
const MIN_BYTES = 1000;
/** Formats in the order of preference; the service reads all of them. */
const FORMATS = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4", "audio/webm", "audio/mp4"];

/** Return why nothing can be recorded here, in words, or null. */
export function recordObstacle() {
  const obstacle = captureObstacle();
  if (obstacle) return obstacle;
  return window.MediaRecorder ? null : "This browser cannot record (MediaRecorder). Choose a file instead.";
}

/**
 * Show the recorder in `place`.
 *
 * @param {HTMLElement} place
 * @param {{maxDurationS: number, card: () => Promise<object?>, onClip: (field: string, file: File) => void,
 *     onError: (error: Error?) => void, onClose: () => void}} options
 * @returns {() => void}  closes it
 */
export function openRecorder(place, { maxDurationS, card, onClip, onError, onClose }) {
  let media = null;
  let recording = null;
  const preview = element("video", { class: "preview", muted: true, playsinline: true, autoplay: true, "aria-label": "Camera" });
  preview.muted = true;
  const camera = toggle("Camera");
  const microphone = toggle("Microphone");
  const length = element("select", { id: "record-length" }, ...LENGTHS_S.filter((seconds) => seconds <= maxDurationS)
    .map((seconds) => element("option", { value: seconds, text: `${seconds} s`, selected: seconds === DEFAULT_S })));
  const start = element("button", { type: "button", class: "primary", text: "Start" });
  const cancel = element("button", { type: "button", text: "Cancel" });
  const progress = element("progress", { max: 1, value: 0, hidden: true, "aria-label": "Recorded" });

  const close = () => {
    if (recording?.state === "recording") {
      recording.onstop = null;
      recording.stop();
    }
    closeCapture(media);
    media = null;
    place.replaceChildren();
    place.hidden = true;
  };
  const show = async () => {
    closeCapture(media);
    media = null;
    start.disabled = true;
    try {
      const checked = { camera: camera.box.checked, microphone: microphone.box.checked };
      const takes = await card();
      const wanted = takes ? takenDevices(takes, checked) : checked;
      camera.box.checked = wanted.camera;
      microphone.box.checked = wanted.microphone;
      preview.hidden = !wanted.camera;
      media = await openCapture(wanted);
      if (place.hidden) {
        closeCapture(media);
        return;
      }
      preview.srcObject = media;
      start.disabled = false;
      onError(null);
    } catch (error) {
      onError(error);
    }
  };
  const record = () => {
    start.disabled = true;
    const pieces = [];
    recording = startRecorder(media, camera.box.checked);
    recording.ondataavailable = (event) => pieces.push(event.data);
    recording.onstop = () => {
      const type = recording.mimeType.split(";")[0];
      const suffix = type.endsWith("mp4") ? "mp4" : "webm";
      const file = new File(pieces, `recording.${suffix}`, { type });
      const both = camera.box.checked && microphone.box.checked;
      const field = both ? "clip" : camera.box.checked ? "video" : "audio";
      if (file.size < MIN_BYTES) {
        start.disabled = false;
        progress.hidden = true;
        onError(new PageError("Nothing was recorded", "The browser did not begin in this time: try again, or record for longer."));
        return;
      }
      close();
      onClip(field, file);
    };
    // The encoders begin some time after the call.
    recording.onstart = () => follow(progress, Number(length.value), recording);
    progress.hidden = false;
    recording.start();
  };
  camera.box.addEventListener("change", show);
  microphone.box.addEventListener("change", show);
  start.addEventListener("click", record);
  cancel.addEventListener("click", () => {
    close();
    onClose();
  });
  place.replaceChildren(element("div", { class: "recorder" }, preview, progress,
    element("div", { class: "row" }, camera.label, microphone.label,
      element("span", { class: "inline" }, element("label", { for: "record-length", text: "Length" }), length)),
    element("div", { class: "row" }, start, cancel)));
  place.hidden = false;
  start.focus();
  show();
  return close;
}

function toggle(text) {
  const box = element("input", { type: "checkbox", checked: true });
  return { box, label: element("label", { class: "check" }, box, element("span", { text })) };
}

/** Throws PageError. */
function startRecorder(media, withPicture) {
  const formats = FORMATS.filter((type) => type.startsWith(withPicture ? "video" : "audio"));
  const mimeType = formats.find((type) => MediaRecorder.isTypeSupported(type));
  if (!mimeType) throw new PageError("Recording", "This browser records in no format that is known. Choose a file instead.");
  return new MediaRecorder(media, { mimeType });
}

/** Show the time that has passed, and stop at the end. */
function follow(progress, seconds, recorder) {
  const begin = performance.now();
  const step = () => {
    const passed = (performance.now() - begin) / 1000;
    progress.value = Math.min(passed / seconds, 1);
    if (recorder.state !== "recording") return;
    if (passed >= seconds) recorder.stop();
    else setTimeout(step, 40);
  };
  step();
}
