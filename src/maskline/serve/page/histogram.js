// The distribution of scores, above the threshold slider.

const BINS = 38; // from 0.05 to 1, each 0.025

/** Bars in an SVG element: as high as the root of their count, so that small counts stay visible. */
export class Histogram {
  #bars;
  #from;

  /** `from`: the lowest score that the slider has. */
  constructor(root, from) {
    this.#from = from;
    root.setAttribute("viewBox", `0 0 ${BINS} 1`);
    root.setAttribute("preserveAspectRatio", "none");
    this.#bars = Array.from({ length: BINS }, (_, i) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [name, value] of [["x", i + 0.12], ["width", 0.76]]) bar.setAttribute(name, value);
      return bar;
    });
    root.replaceChildren(...this.#bars);
  }

  fill(scores) {
    const counts = new Array(BINS).fill(0);
    for (const score of scores) counts[this.#bin(score)]++;
    const most = Math.sqrt(Math.max(1, ...counts));
    this.#bars.forEach((bar, i) => {
      const height = counts[i] ? Math.max(0.08, Math.sqrt(counts[i]) / most) : 0;
      bar.setAttribute("y", 1 - height);
      bar.setAttribute("height", height);
    });
  }

  split(threshold) {
    const first = this.#bin(threshold);
    this.#bars.forEach((bar, i) => bar.classList.toggle("above", i >= first));
  }

  #bin(score) {
    const bin = Math.floor(((score - this.#from) / (1 - this.#from)) * BINS + 1e-9); // 0.5 begins a bin
    return Math.min(Math.max(bin, 0), BINS - 1);
  }
}
