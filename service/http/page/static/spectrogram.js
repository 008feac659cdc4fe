/** The spectrogram of a clip's sound, for the picture under an attention map. */

const SAMPLE_RATE = 16_000;
const WINDOW = 512;
/** Levels this far below the loudest, in dB, are black. */
const RANGE_DB = 60;

/**
 * Decode the sound of a file to one channel at 16 kHz; null where the browser cannot.
 *
 * @param {Blob} file
 * @returns {Promise<{samples: Float32Array, durationS: number} | null>}
 */
export async function decodeSound(file) {
  try {
    const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
    const buffer = await context.decodeAudioData(await file.arrayBuffer());
    const samples = new Float32Array(buffer.length);
    for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
      buffer.getChannelData(channel).forEach((value, i) => {
        samples[i] += value / buffer.numberOfChannels;
      });
    }
    return { samples, durationS: buffer.duration };
  } catch {
    return null;
  }
}

/**
 * Return levels from 0 to 1 at these times and frequencies.
 *
 * @param {Float32Array} samples  at 16 kHz
 * @param {number[]} timesS  @param {number[]} frequenciesHz
 * @returns {Float32Array}  [frequencies × times]
 */
export function spectrogram(samples, timesS, frequenciesHz) {
  const levels = new Float32Array(timesS.length * frequenciesHz.length);
  const bins = frequenciesHz.map((hz) => Math.min((hz / SAMPLE_RATE) * WINDOW, WINDOW / 2 - 1));
  let maximum = -Infinity;
  timesS.forEach((time, x) => {
    const power = powerAt(samples, Math.round(time * SAMPLE_RATE) - WINDOW / 2);
    bins.forEach((bin, y) => {
      const low = Math.floor(bin);
      const value = power[low] + (power[low + 1] - power[low]) * (bin - low);
      const level = 10 * Math.log10(value + 1e-10);
      levels[y * timesS.length + x] = level;
      maximum = Math.max(maximum, level);
    });
  });
  return levels.map((level) => Math.max(0, 1 + (level - maximum) / RANGE_DB));
}

const HANN = Float32Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / WINDOW));

/** Return the power of each frequency in a window of the sound that begins at a sample. */
function powerAt(samples, begin) {
  const real = new Float32Array(WINDOW);
  const imaginary = new Float32Array(WINDOW);
  for (let i = 0; i < WINDOW; i += 1) real[i] = (samples[begin + i] ?? 0) * HANN[i];
  transform(real, imaginary);
  return real.slice(0, WINDOW / 2 + 1).map((value, i) => value ** 2 + imaginary[i] ** 2);
}

/** Fourier transform in place, of a length that is a power of two. */
function transform(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i += 1) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let size = 2; size <= n; size <<= 1) {
    for (let k = 0; k < size / 2; k += 1) {
      const angle = (-2 * Math.PI * k) / size;
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      for (let at = k; at < n; at += size) {
        const to = at + size / 2;
        const re = real[to] * cos - imaginary[to] * sin;
        const im = real[to] * sin + imaginary[to] * cos;
        real[to] = real[at] - re;
        imaginary[to] = imaginary[at] - im;
        real[at] += re;
        imaginary[at] += im;
      }
    }
  }
}
