// Masks as they have been drawn, to be drawn again at once while only the threshold moves, or, enlarged and blurred for
// the moment, while the image is being zoomed.

const MOST_PIXELS = 16e6; // of all together; the rest is redrawn each time
const MARGIN = 4; // CSS pixels, more than half an outline

/** Small canvases, one for each instance, for one scale. */
export class Sprites {
  #scale = 0;
  #left = MOST_PIXELS;
  #made = new Map();

  clear() {
    this.#left = MOST_PIXELS;
    this.#made.clear();
  }

  /**
   * What `draw` draws of an instance, and where it lies in pixels from the image's corner, to be enlarged by a
   * factor, which is not 1 only if `hurried`; null where there is no room to keep it.
   */
  of(one, frame, draw, hurried) {
    const scale = frame.ratio * frame.scale;
    const made = hurried && this.#made.get(one);
    if (made) return { ...made, factor: scale / this.#scale };
    if (hurried) return null;
    if (scale !== this.#scale) this.clear();
    this.#scale = scale;
    if (!this.#made.has(one)) this.#made.set(one, this.#make(one, frame, scale, draw));
    return this.#made.get(one);
  }

  #make(one, frame, scale, draw) {
    const [x, y] = [one.left, one.top].map((at) => Math.floor(at * scale - MARGIN * frame.ratio));
    const [height, width] = one.size.map((length) => Math.ceil(length * scale + 2 * MARGIN * frame.ratio) + 1);
    if (width * height > this.#left) return null;
    this.#left -= width * height;
    const canvas = new OffscreenCanvas(width, height);
    draw(canvas.getContext("2d"), one, { ...frame, x: -x / frame.ratio, y: -y / frame.ratio });
    return { canvas, x, y, factor: 1 };
  }
}
