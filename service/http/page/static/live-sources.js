/** Pictures and sound of a capture, as they are sent over a live stream. */

/** Pictures a second, and their longest side in pixels. */
const PICTURES_PER_S = 12;
const MAX_SIDE = 320;
/** Pieces of sound, of 20 ms, over which the offset between its clock and the page's is measured. */
const OFFSET_PIECES = 250;
/** Older sound, of a page that stood still, is not sent: answers are about what is heard now. */
const MAX_LATE_MS = 2000;

const WORKER = new URL("jpeg-worker.js", import.meta.url).href;
/** The page's policy lets only this address become a worker. */
const POLICY = window.trustedTypes?.createPolicy("scmrl-worker", { createScriptURL: () => WORKER });

/** A time of the page's clock in ns, for pictures and sound alike. @param {number} ms */
function toNs(ms) {
  return BigInt(Math.max(0, Math.round(ms * 1000))) * 1000n;
}

/** Return why live pictures cannot be sent by this browser, in words, or null. */
export function pictureObstacle() {
  if (window.Worker && window.OffscreenCanvas && window.createImageBitmap) return null;
  return "This browser cannot encode live pictures (OffscreenCanvas). Switch the camera off, or record a clip.";
}

/**
 * Send JPEG pictures of a playing video element. Returns a function that stops it.
 *
 * @param {HTMLVideoElement} video
 * @param {(jpeg: ArrayBuffer, timeNs: bigint) => void} send
 */
export function sendPictures(video, send) {
  const encoder = new Worker(POLICY ? POLICY.createScriptURL("") : WORKER);
  let isBusy = false;
  encoder.onmessage = ({ data: { jpeg, timeNs } }) => {
    isBusy = false;
    send(jpeg, timeNs);
  };
  const timer = setInterval(async () => {
    if (isBusy || !video.videoWidth) return; // the newest picture counts; none waits
    isBusy = true;
    const timeNs = toNs(performance.now());
    const scale = Math.min(1, MAX_SIDE / Math.max(video.videoWidth, video.videoHeight));
    try {
      const picture = await createImageBitmap(video, {
        resizeWidth: Math.round(video.videoWidth * scale), resizeHeight: Math.round(video.videoHeight * scale),
      });
      encoder.postMessage({ picture, timeNs }, [picture]);
    } catch {
      isBusy = false; // the camera has been closed meanwhile
    }
  }, 1000 / PICTURES_PER_S);
  return () => {
    clearInterval(timer);
    encoder.terminate();
  };
}

/**
 * Open the sound of a capture. `start(send)` begins; `close()` ends.
 *
 * @param {MediaStream} media
 */
export async function openSound(media) {
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("pcm16-worklet.js", import.meta.url));
  await context.resume();
  const source = context.createMediaStreamSource(media);
  const node = new AudioWorkletNode(context, "pcm16", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  return {
    sampleRate: context.sampleRate,
    start(send) {
      // Stamps follow the samples. Pieces arrive late, never early, so that the least delay of
      // the last seconds is the offset between the clocks.
      const offsets = [];
      node.port.onmessage = ({ data: { samples, frame } }) => {
        const atMs = (frame / context.sampleRate) * 1000;
        const arrivedMs = performance.now() - (samples.length / context.sampleRate) * 1000;
        offsets.push(arrivedMs - atMs);
        if (offsets.length > OFFSET_PIECES) offsets.shift();
        const offsetMs = Math.min(...offsets);
        if (arrivedMs - atMs - offsetMs < MAX_LATE_MS) send(samples, toNs(offsetMs + atMs));
      };
      source.connect(node);
    },
    close() {
      node.port.onmessage = null;
      source.disconnect();
      context.close();
    },
  };
}
