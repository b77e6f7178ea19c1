// Outlines of masks as polygons, for drawing: they stay sharp at any zoom.

import { columns } from "./rle.js";

export const TOLERANCE = 0.4; // pixels; most of the stairs that pixels make of a slanted line deviate by less, corners by more
const STEPS = [1, 0, 0, 1, -1, 0, 0, -1]; // x, y: right, down, left, up
const AHEAD = [0, 0, -1, 0, -1, -1, 0, -1]; // the pixel ahead on the right hand, from the corner one stands on

/**
 * The rings round a mask's regions and round their holes, through the middles of pixels' sides, which bevels corners,
 * then straightened. A point is inside if it lies in an odd number of rings.
 *
 * @param {Uint32Array} ends as `runEnds` gives them
 * @param {[number, number]} size height, width
 * @returns {Float32Array[]} x1 y1 x2 y2 …, pixel (0, 0) covers 0 to 1
 */
export function rings(ends, [height, width]) {
  const mask = columns(ends, [height, width]);
  const found = [];
  for (const start of topSides(ends, height)) {
    if (mask[start] === 1 && !(start % height && mask[start - 1])) {
      found.push(straighten(walk(mask, height, width, Math.floor(start / height), start % height), TOLERANCE));
    }
  }
  return found;
}

/** Pixels with background above them: where a run of foreground begins, and where it goes on in the next column. */
function* topSides(ends, height) {
  for (let i = 1; i < ends.length; i += 2) {
    for (let at = ends[i - 1]; at < ends[i]; at += height - (at % height)) yield at;
  }
}

/** Along a region's edge, foreground on the right hand, from the top side of a pixel; marks the top sides passed by 2. */
function walk(mask, height, width, startX, startY) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[x * height + y] !== 0;
  const points = [];
  let [x, y, way] = [startX, startY, 0];
  do {
    if (way === 0) mask[x * height + y] = 2;
    points.push(x + STEPS[2 * way] / 2, y + STEPS[2 * way + 1] / 2);
    x += STEPS[2 * way];
    y += STEPS[2 * way + 1];
    const left = (way + 3) & 3;
    if (inside(x + AHEAD[2 * left], y + AHEAD[2 * left + 1])) way = left;
    else if (!inside(x + AHEAD[2 * way], y + AHEAD[2 * way + 1])) way = (way + 1) & 3;
  } while (x !== startX || y !== startY || way !== 0);
  return points;
}

/** Leave out points that lie within the tolerance of the line between those kept (Douglas and Peucker). */
export function straighten(points, tolerance) {
  const count = points.length / 2;
  const keep = new Uint8Array(count + 1); // the first once more behind the last
  const opposite = farthest(points, 0, 0, count)[0];
  keep[0] = keep[opposite] = 1;
  const todo = [0, opposite, opposite, count];
  while (todo.length) {
    const to = todo.pop();
    const from = todo.pop();
    const [middle, distance] = farthest(points, from, to % count, to);
    if (distance <= tolerance) continue;
    keep[middle] = 1;
    todo.push(from, middle, middle, to);
  }
  const kept = [];
  for (let i = 0; i < count; i++) if (keep[i]) kept.push(points[2 * i], points[2 * i + 1]);
  return Float32Array.from(kept);
}

/** The point between `from` and `to` that is farthest from the line through `from` and `other`, and how far. */
function farthest(points, from, other, to) {
  const [ax, ay] = [points[2 * from], points[2 * from + 1]];
  const [dx, dy] = [points[2 * other] - ax, points[2 * other + 1] - ay];
  const length = Math.hypot(dx, dy);
  let [best, distance] = [from, -1];
  for (let i = from + 1; i < to; i++) {
    const [px, py] = [points[2 * i] - ax, points[2 * i + 1] - ay];
    const away = length ? Math.abs(px * dy - py * dx) / length : Math.hypot(px, py);
    if (away > distance) [best, distance] = [i, away];
  }
  return [best, distance];
}
