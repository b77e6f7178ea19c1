// Masks as COCO's compressed run lengths: runs of background and foreground in turn, counted down the columns, from the
// fourth on the difference to the run two places earlier; five bits a character, lowest first.

const FIRST_CHARACTER = 48;
const MORE = 32; // more groups of the number follow
const SIGN = 16; // in the last group of a number
const MOST_GROUPS = 6; // 30 bits, beyond any image

/**
 * Where the runs end, as numbers of pixels from the first. Between the ends 2k and 2k + 1 lies foreground.
 *
 * @param {string} counts
 * @param {[number, number]} size height, width
 * @returns {Uint32Array}
 * @throws {RangeError} the counts are not those of a mask of this size
 */
export function runEnds(counts, [height, width]) {
  const lengths = differences(counts);
  const ends = new Uint32Array(lengths.length);
  let end = 0;
  for (let i = 0; i < lengths.length; i++) {
    if (i > 2) lengths[i] += lengths[i - 2];
    if (lengths[i] < 0) throw new RangeError("the mask has a negative run length");
    ends[i] = end += lengths[i];
  }
  if (end !== height * width) throw new RangeError(`the mask has ${end} pixels instead of ${height} × ${width}`);
  return ends;
}

/** The numbers in the text, not yet added up. */
function differences(counts) {
  const found = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let groups = 0;
    let code;
    do {
      code = counts.charCodeAt(at++) - FIRST_CHARACTER;
      if (!(code >= 0 && code < 64) || groups === MOST_GROUPS) throw new RangeError("the mask's RLE is invalid");
      value |= (code & 31) << (5 * groups++);
    } while (code & MORE);
    found.push(code & SIGN ? value - 2 ** (5 * groups) : value);
  }
  return found;
}

/** The mask column by column: pixel (x, y) at x · height + y, 0 or 1. */
export function columns(ends, [height, width]) {
  const mask = new Uint8Array(height * width);
  for (let i = 1; i < ends.length; i += 2) mask.fill(1, ends[i - 1], ends[i]);
  return mask;
}

/** How many pixels are foreground. */
export function area(ends) {
  let sum = 0;
  for (let i = 1; i < ends.length; i += 2) sum += ends[i] - ends[i - 1];
  return sum;
}

/** Whether a pixel is foreground: its run, found by halving, is an odd one. */
export function covers(ends, [height, width], x, y) {
  if (x < 0 || y < 0 || x >= width || y >= height) return false;
  const pixel = x * height + y;
  let low = 0;
  let high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > pixel) high = middle;
    else low = middle + 1;
  }
  return low % 2 === 1;
}
