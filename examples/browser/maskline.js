// Inference with an exported maskline model in a browser. Results match those of the Python package. `page.js` shows them.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const RECORD_KEY = "maskline";
const METADATA_PROPS = 14; // number of the field in ONNX's ModelProto
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
const EARLIER = { image: false, within: false, twice: true }; // by `mask_frame`, of records up to version 2
const CLEAR_RED = // a PNG of one pixel, 255 0 0, its alpha 0
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP4z8DAAAAEAQEAmFjYzgAAAABJRU5ErkJggg==";

/**
 * Open a model, `inference.onnx` as `maskline export` writes it.
 *
 * @param {string} url
 * @returns {Promise<{session: ort.InferenceSession, record: object}>} with what the file says about itself
 */
export async function openModel(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`no model at ${url} (${response.status}): export one there, see docs/edge.md`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const record = readRecord(bytes, url);
  const pre = record.preprocess;
  record.mask_layout ??= { over: "input", boxes_from_masks: false, via_input: EARLIER[record.mask_frame] };
  const layout = record.mask_layout; // see runtime/mask_layout.py of the Python package
  const read = layout.over === "input" && !layout.boxes_from_masks && typeof layout.via_input === "boolean";
  const known = ["linear", "cubic"].includes(pre.interpolation) && read;
  if (pre.float_resize || !known) {
    throw new Error(`${record.model} is not supported by this page, only Mask-RT-DETR and PP-YOLOE_seg`);
  }
  return { session: await ort.InferenceSession.create(bytes), record };
}

function readRecord(bytes, url) {
  try {
    const record = JSON.parse(metadata(bytes)[RECORD_KEY]);
    if (record.preprocess && record.labels) return record;
  } catch {
    // not even a protocol buffer
  }
  throw new Error(`no maskline model at ${url}: expected a complete inference.onnx, as written by \`maskline export\``);
}

/** The metadata of an ONNX file, which onnxruntime-web does not expose: the fields of a protocol buffer, in order. */
export function metadata(bytes) {
  const found = {};
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const parts = Object.fromEntries([...fields(entry)].map(([part, value]) => [part, new TextDecoder().decode(value)]));
    found[parts[1]] = parts[2];
  }
  return found;
}

function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; at < bytes.length; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new RangeError("a number exceeds the file");
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7; // 0: varint, 1: 8 bytes, 2: a length and that many bytes, 5: 4 bytes
    if (kind === 0) {
      varint();
      continue;
    }
    const length = kind === 2 ? varint() : kind === 1 ? 8 : kind === 5 ? 4 : NaN;
    if (!(at + length <= bytes.length)) throw new RangeError(`a field of kind ${kind} exceeds the file`);
    yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
    at += length;
  }
}

/**
 * The pixels of an image (a File or Blob), as they are in the file, but turned as it says, and all opaque: as Python,
 * which reads the colours of transparent pixels too.
 *
 * @param {Blob} file
 * @returns {Promise<ImageData>}
 */
export async function readImage(file) {
  const bitmap = await createImageBitmap(file, AS_STORED);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, bitmap.width, bitmap.height);
  for (let i = 3; i < image.data.length; i += 4) {
    if (image.data[i] < 255) return transparent(file, bitmap);
  }
  return image;
}

/** A 2d canvas multiplies colours by alpha, for good. WebGL need not, but browsers may, at least when they turn. */
async function transparent(file, bitmap) {
  const data = colours(bitmap);
  const clear = await (await fetch(CLEAR_RED)).blob();
  const exact = colours(await createImageBitmap(clear, AS_STORED))?.[0] === 255;
  if (!data || !exact || orientation(new Uint8Array(await file.arrayBuffer())) !== 1) {
    throw new Error("the colours of its transparent pixels can't be read here; save it without transparency");
  }
  return new ImageData(data, bitmap.width, bitmap.height);
}

/** How a PNG or WebP is to be turned, 1 to 8 as in EXIF; 1: as it is. */
function orientation(bytes) {
  const text = new TextDecoder("latin1").decode(bytes); // a character for each byte
  const head = /(?:eXIf|EXIF[^]{4})(?:Exif\0\0)?(?=II\*\0|MM\0\*)/.exec(text);
  if (!head) return 1;
  const tiff = new DataView(bytes.buffer, head.index + head[0].length);
  const little = tiff.getUint8(0) === 0x49;
  const first = tiff.getUint32(4, little);
  for (let entry = first + 2; entry < first + 2 + 12 * tiff.getUint16(first, little); entry += 12) {
    if (tiff.getUint16(entry, little) === 0x112) return tiff.getUint16(entry + 8, little);
  }
  return 1;
}

/** The bytes of a bitmap, made opaque; null where there is no WebGL, or for a bitmap too large for it. */
function colours(bitmap) {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8ClampedArray(4 * bitmap.width * bitmap.height);
  gl.readPixels(0, 0, bitmap.width, bitmap.height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const done = gl.getError() === gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // a page may have only a few
  for (let i = 3; i < data.length; i += 4) data[i] = 255;
  return done ? data : null;
}

/**
 * Run the network on an image.
 *
 * @param {{session: ort.InferenceSession, record: object}} model
 * @param {ImageData} image
 * @returns {Promise<object>} what `decode` takes, at any threshold
 */
export async function run(model, image) {
  const { pixels, height, width, resized } = prepare(image, model.record.preprocess);
  const outputs = await model.session.run({ image: new ort.Tensor("uint8", pixels, [1, height, width, 3]) });
  const [, count, rows, columns] = outputs.masks.dims;
  return {
    boxes: outputs.boxes.data,
    scores: outputs.scores.data,
    labels: outputs.labels.data,
    masks: outputs.masks.data,
    grid: { count, rows, columns },
    viaInput: model.record.mask_layout.via_input,
    input: [height, width],
    resized,
    size: [image.height, image.width],
  };
}

/** An image as the network takes it, RGB: scaled as the record says, then zeros right and below. */
export function prepare(image, pre) {
  const resized = resizedSize(image.height, image.width, pre);
  const small = resize(image, ...resized, pre.interpolation === "cubic");
  const stride = Math.max(pre.pad_stride, 1);
  const [height, width] = resized.map((side) => Math.ceil(side / stride) * stride);
  const pixels = new Uint8Array(height * width * 3);
  const row = resized[1] * 3;
  for (let y = 0; y < resized[0]; y++) pixels.set(small.subarray(y * row, (y + 1) * row), y * width * 3);
  return { pixels, height, width, resized };
}

function resizedSize(height, width, pre) {
  if (!pre.keep_ratio) return [pre.height, pre.width];
  const [short, long] = [pre.height, pre.width].sort((a, b) => a - b);
  const ratio = Math.min(short / Math.min(height, width), long / Math.max(height, width));
  return [height, width].map((side) => Math.max(roundHalfEven(side * ratio), 1));
}

/** Bytes of RGB, as OpenCV makes them, linear in whole numbers: a network notices if all are a little brighter. */
function resize({ data, height: fromHeight, width: fromWidth }, height, width, cubic) {
  const rows = taps(fromHeight, height, cubic);
  const columns = taps(fromWidth, width, cubic);
  const line = width * 3;
  const across = new Float64Array(fromHeight * line);
  for (let y = 0; y < fromHeight; y++) {
    for (let x = 0; x < width; x++) {
      for (let k = 0; k < 4; k++) {
        const weight = columns.weight[4 * x + k];
        if (weight === 0) continue;
        const source = 4 * (y * fromWidth + columns.from[4 * x + k]);
        const target = y * line + 3 * x;
        for (let c = 0; c < 3; c++) across[target + c] += weight * data[source + c];
      }
    }
  }
  const out = new Uint8ClampedArray(height * line);
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < line; i++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) {
        const value = across[rows.from[4 * y + k] * line + i];
        const weight = rows.weight[4 * y + k];
        sum += cubic ? weight * value : (weight * (value >> 4)) >> 16;
      }
      out[y * line + i] = cubic ? sum : (sum + 2) >> 2; // the array rounds and clamps
    }
  }
  return out;
}

/** For each place along an axis, the four it comes from and their weights, if linear in whole 2048ths. */
function taps(from, to, cubic) {
  const found = { from: new Int32Array(4 * to), weight: new Float64Array(4 * to) };
  const a = -0.75; // the sharpness of OpenCV's cubic
  const near = (x) => ((a + 2) * x - (a + 3)) * x * x + 1;
  const far = (x) => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * (from / to) - 0.5;
    const before = Math.floor(centre);
    const t = centre - before;
    const linear = [0, 1 - t, t, 0].map((share) => roundHalfEven(2048 * share));
    const weights = cubic ? [far(1 + t), near(t), near(1 - t), far(2 - t)] : linear;
    for (let k = 0; k < 4; k++) {
      found.from[4 * i + k] = Math.min(Math.max(before - 1 + k, 0), from - 1);
      found.weight[4 * i + k] = weights[k];
    }
  }
  return found;
}

/**
 * The instances above a score, the best first.
 *
 * @param {object} raw of `run`
 * @param {number} threshold a score in [0, 1]
 * @returns {Array<{label: number, score: number, box: number[], window: number[], mask: Uint8Array, area: number}>}
 *   box: x1 y1 x2 y2 in pixels of the image; window: top, bottom, left, right, the pixels that the mask (0 or 1) covers
 */
export function decode(raw, threshold) {
  const [height, width] = raw.size;
  const scaleY = height / raw.resized[0];
  const scaleX = width / raw.resized[1];
  const least = Math.fround(threshold); // as scores are
  const found = [];
  for (let i = 0; i < raw.grid.count; i++) {
    if (!(raw.scores[i] > least)) continue;
    const box = [0, 1, 2, 3].map((k) => {
      const value = Math.fround(raw.boxes[4 * i + k] * Math.fround(k % 2 ? scaleY : scaleX));
      return Math.min(Math.max(value, 0), k % 2 ? height : width);
    });
    if (!(box[2] > box[0] && box[3] > box[1])) continue;
    const window = pixelWindow(box, height, width);
    const grid = raw.viaInput ? inInput(raw, i) : maskGrid(raw, i);
    const mask = upsample(grid, window, [grid.rows / (raw.input[0] * scaleY), grid.columns / (raw.input[1] * scaleX)]);
    const area = mask.reduce((sum, value) => sum + value, 0);
    found.push({ label: Number(raw.labels[i]), score: raw.scores[i], box, window, mask, area });
  }
  return found;
}

/**
 * The instances as `Result.save_to_json` writes them, for a Blob.
 *
 * @param {ReturnType<typeof decode>} found
 * @param {string[]} labels of the model's record
 * @param {string} path the name of the image
 * @returns {string[]} in pieces: masks are rows of 0 and 1 over their windows, and a string has an end
 */
export function toJson(found, labels, path) {
  const boxes = found.map(({ label, score, box }) => ({ cls_id: label, label: labels[label], score, coordinate: box }));
  const head = JSON.stringify({ input_path: path, page_index: null, boxes }, null, 4);
  const masks = found.map(({ window: [top, bottom, left, right], mask }, i) => {
    const width = right - left;
    const row = (_, y) => `\n            [${mask.subarray(y * width, (y + 1) * width).join()}]`;
    return `${i ? "," : ""}\n        [${Array.from({ length: bottom - top }, row).join()}\n        ]`;
  });
  return [head.slice(0, -2), ',\n    "masks": [', ...masks, "\n    ]\n}\n"];
}

function pixelWindow(box, height, width) {
  const [x1, y1, x2, y2] = box.map(roundHalfEven);
  const top = Math.min(y1, height - 1);
  const left = Math.min(x1, width - 1);
  return [top, Math.max(y2, top + 1), left, Math.max(x2, left + 1)];
}

function maskGrid({ masks, grid: { rows, columns } }, index) {
  return { values: masks.subarray(index * rows * columns, (index + 1) * rows * columns), rows, columns };
}

/** A mask enlarged to the pixels of the network's input, background outside its box. */
function inInput(raw, index) {
  const grid = maskGrid(raw, index);
  const [rows, columns] = raw.input;
  const [x1, y1, x2, y2] = raw.boxes.subarray(4 * index, 4 * index + 4);
  const values = new Float32Array(rows * columns).fill(-0.5);
  const range = (from, to, end) => [Math.max(Math.ceil(from), 0), Math.min(Math.ceil(to), end)];
  const [top, bottom] = range(y1, y2, rows);
  const [left, right] = range(x1, x2, columns);
  interpolate(grid, [top, bottom, left, right], [grid.rows / rows, grid.columns / columns], (y, x, value) => {
    values[y * columns + x] = value;
  });
  return { values, rows, columns };
}

/** A pixel is foreground where the grid, bilinearly interpolated at the pixel's centre, is positive. */
function upsample(grid, window, step) {
  const [top, bottom, left, right] = window;
  const mask = new Uint8Array((bottom - top) * (right - left));
  interpolate(grid, window, step, (y, x, value) => {
    mask[(y - top) * (right - left) + x - left] = value > 0 ? 1 : 0;
  });
  return mask;
}

/** Hand out the grid's value, bilinearly interpolated, at the centre of each pixel of a window. */
function interpolate({ values, rows, columns }, [top, bottom, left, right], [stepY, stepX], take) {
  const across = Array.from({ length: Math.max(right - left, 0) }, (_, x) => between(left + x, stepX, columns));
  for (let y = top; y < bottom; y++) {
    const v = between(y, stepY, rows);
    const upper = v.before * columns;
    const lower = v.after * columns;
    across.forEach((h, x) => {
      const above = values[upper + h.before] * (1 - h.share) + values[upper + h.after] * h.share;
      const below = values[lower + h.before] * (1 - h.share) + values[lower + h.after] * h.share;
      take(y, left + x, above * (1 - v.share) + below * v.share);
    });
  }
}

/** The two cells of a grid that a pixel's centre lies between, and the share of the second. */
function between(pixel, step, cells) {
  const centre = (pixel + 0.5) * step - 0.5;
  const before = Math.floor(centre);
  const inside = (cell) => Math.min(Math.max(cell, 0), cells - 1);
  return { before: inside(before), after: inside(before + 1), share: centre - before };
}

function roundHalfEven(value) {
  const down = Math.floor(value);
  if (value - down !== 0.5) return Math.round(value);
  return down % 2 === 0 ? down : down + 1;
}
