/** Camera and microphone, and why they cannot be used. */

import { PageError } from "./problem-view.js";

const TITLE = "Camera and microphone";

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
