/** Turns the microphone's sound into PCM of 16 bits, in pieces of 20 ms, off the page's thread. */

const PIECE_S = 0.02;

class Pcm16 extends AudioWorkletProcessor {
  #piece = new Int16Array(Math.round(sampleRate * PIECE_S));
  #filled = 0;
  #firstFrame = 0;

  process([input]) {
    const [samples] = input;
    if (!samples) return true;
    for (let i = 0; i < samples.length; i += 1) {
      if (this.#filled === 0) this.#firstFrame = currentFrame + i;
      const value = Math.max(-1, Math.min(1, samples[i]));
      this.#piece[this.#filled] = Math.round(value * 32767);
      this.#filled += 1;
      if (this.#filled === this.#piece.length) this.#post();
    }
    return true;
  }

  #post() {
    const samples = this.#piece.slice();
    this.port.postMessage({ samples, frame: this.#firstFrame }, [samples.buffer]);
    this.#filled = 0;
  }
}

registerProcessor("pcm16", Pcm16);
