// Instances, from the service's answer to what can be drawn, listed and pointed at.

import { rings, straighten, TOLERANCE } from "./contour.js";
import { area, covers, runEnds } from "./rle.js";

const COLOURS = ["#e6194b", "#0aa5ff", "#2fbf4a", "#f58231", "#a15bff", "#00b3a4", "#e83ec0", "#c9a400"];
export const MOST = 300; // more than anyone looks at, and few enough to be drawn at once

/**
 * The best instances of an answer, best first. A colour goes with the place, so it stays as the threshold moves.
 *
 * @param {object[]} found `result.instances`
 * @param {[number, number]} size height and width of the image
 * @returns {Instance[]}
 * @throws {RangeError} a mask is damaged
 */
export function readInstances(found, size) {
  const order = [...found.keys()].sort((a, b) => found[b].score - found[a].score || a - b);
  return order.slice(0, MOST).map((index, place) => new Instance(found[index], place, size));
}

/** One instance; `box` is x1 y1 x2 y2 in pixels of the image. */
class Instance {
  #rings = null;
  #paths = []; // for a whole pixel, half of one, a quarter …

  constructor({ bbox, score, categoryName, categoryId, mask }, place, [height, width]) {
    this.number = place + 1;
    this.colour = COLOURS[place % COLOURS.length];
    this.name = String(categoryName ?? `class ${categoryId}`);
    this.score = score;
    this.box = bbox;
    this.size = mask.size;
    this.left = origin(bbox[0], width - mask.size[1]);
    this.top = origin(bbox[1], height - mask.size[0]);
    this.ends = runEnds(mask.rleResult, mask.size);
    this.area = area(this.ends);
    this.share = this.area / (height * width);
  }

  /**
   * The outline in pixels of the image, to be filled by the even-odd rule; made when it is first needed.
   *
   * @param {number} scale pixels to be drawn for one of the image: where these are few, fewer points will do
   */
  path(scale) {
    const level = Math.max(0, Math.floor(-Math.log2(scale)));
    this.#rings ??= rings(this.ends, this.size);
    this.#paths[level] ??= toPath(this.#straightened(level), this.left, this.top);
    return this.#paths[level];
  }

  #straightened(level) {
    return level ? this.#rings.map((ring) => straighten(ring, TOLERANCE * 2 ** level)) : this.#rings;
  }

  /** Whether a point of the image lies on the mask. */
  covers(x, y) {
    return covers(this.ends, this.size, Math.floor(x) - this.left, Math.floor(y) - this.top);
  }

  boxCovers(x, y) {
    const [x1, y1, x2, y2] = this.box;
    return x >= x1 && y >= y1 && x <= x2 && y <= y2;
  }
}

/** Where a mask begins: at its box, rounded half to even, but inside the image; so one of the whole image fits. */
function origin(corner, last) {
  const down = Math.floor(corner);
  const rounded = corner - down === 0.5 ? down + (down % 2) : Math.round(corner);
  return Math.max(0, Math.min(rounded, last));
}

function toPath(outlines, left, top) {
  const path = new Path2D();
  for (const ring of outlines) {
    for (let i = 0; i < ring.length; i += 2) {
      if (i === 0) path.moveTo(ring[0] + left, ring[1] + top);
      else path.lineTo(ring[i] + left, ring[i + 1] + top);
    }
    path.closePath();
  }
  return path;
}

/** How many, of those sorted best first, have a score above the threshold. Scores are of single precision. */
export function above(scores, threshold) {
  const least = Math.fround(threshold);
  const end = scores.findIndex((score) => !(score > least));
  return end < 0 ? scores.length : end;
}
