/** Camera and microphone, and why they cannot be used. */

import { PageError } from "./problem-view.js";

const TITLE = "Camera and microphone";
/** What each device gives, and the kind of a card's streams that take it. */
const DEVICES = {
  camera: { content: "pictures", kind: "frames" },
  microphone: { content: "sound", kind: "spectrogram" },
};

/** Return why this browser can capture nothing here, in words, or null. */
export function captureObstacle() {
  if (!window.isSecureContext) {
    return "Browsers give camera and microphone only to pages that are served over HTTPS, or from "
      + "this machine (localhost). Put a proxy with TLS in front of the service, or choose a file.";
  }
  if (!navigator.mediaDevices?.getUserMedia) {
    return "This browser gives pages no camera and no microphone. Choose a file instead.";
  }
  return null;
}

/**
 * Return which of the wanted devices a checkpoint takes. Throws PageError where it takes none of them.
 *
 * @param {{name: string, streams: {[stream: string]: {kind: string}}}} card
 * @param {{camera: boolean, microphone: boolean}} wanted
 */
export function takenDevices({ name, streams }, wanted) {
  const kinds = Object.values(streams).map(({ kind }) => kind);
  const used = Object.keys(DEVICES).filter((device) => wanted[device]);
  const taken = used.filter((device) => kinds.includes(DEVICES[device].kind));
  if (used.length && !taken.length) {
    const contents = used.map((device) => `no ${DEVICES[device].content}`).join(" and ");
    const other = Object.keys(DEVICES).find((device) => kinds.includes(DEVICES[device].kind));
    const advice = other ? `Switch the ${other} on` : "Send it a file";
    throw new PageError(TITLE, `The checkpoint ${name} takes ${contents}: its streams are of the kinds `
      + `${kinds.join(", ")}. ${advice}, or choose another checkpoint under Settings.`);
  }
  return { camera: taken.includes("camera"), microphone: taken.includes("microphone") };
}

/**
 * Open camera and microphone. Throws PageError.
 *
 * @param {{camera: boolean, microphone: boolean}} wanted
 * @returns {Promise<MediaStream>}
 */
export async function openCapture({ camera, microphone }) {
  const obstacle = captureObstacle();
  if (obstacle) throw new PageError(TITLE, obstacle);
  if (!camera && !microphone) {
    throw new PageError(TITLE, "Neither is switched on: choose camera, microphone or both.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      video: camera && { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } },
      // As it is heard: checkpoints are trained on sound without a telephone's processing.
      audio: microphone && { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    throw new PageError(TITLE, reason(error, wantedWords(camera, microphone)), { cause: error });
  }
}

/** Stop all tracks, so that the camera's light goes out. */
export function closeCapture(media) {
  media?.getTracks().forEach((track) => track.stop());
}

function wantedWords(camera, microphone) {
  if (camera && microphone) return "camera and microphone";
  return camera ? "camera" : "microphone";
}

function reason(error, wanted) {
  switch (error.name) {
    case "NotAllowedError":
      return `The browser does not let this page use ${wanted}. Allow it beside the page's address, then try again.`;
    case "NotFoundError":
      return `There is no ${wanted} on this device. Switch off what is missing, or choose a file.`;
    case "NotReadableError":
      return `The ${wanted} cannot be read: another program may be using it.`;
    default:
      return `The browser could not open ${wanted}: ${error.message || error.name}.`;
  }
}
