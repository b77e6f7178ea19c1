// Images, as the service sees them: turned as their EXIF data say, colours as stored, transparency left out.

import { segment } from "./service.js";

const AS_STORED = { colorSpaceConversion: "none", imageOrientation: "from-image" };
const NOT_TURNED = { ...AS_STORED, imageOrientation: "none" };
const NO_INSTANCES = 1; // no score is above
const GLANCE = 128; // pixels a side, enough to notice transparency
const EXIF_WITHIN = 65_536; // bytes; it comes before the pixels, as a rule
const WEBP_FLAGS = 20; // the place of a byte, and a bit in it
const WEBP_EXIF = 8;

/** The bitmap of an image, null for what this browser can't show (TIFF, mostly). */
export async function open(blob, options = AS_STORED) {
  try {
    return await createImageBitmap(blob, options);
  } catch {
    return null;
  }
}

/**
 * The bitmap that the service's answer belongs to: the browser's own if it agrees with what the service has seen,
 * else the image that the service draws when it is asked for one without instances.
 *
 * @param {Blob} blob
 * @param {ImageBitmap | null} bitmap of `open`
 * @param {[number, number] | null} size height and width in the answer
 * @param {AbortSignal} signal
 * @returns {Promise<{bitmap: ImageBitmap | null, drawn: boolean}>} drawn: by the service
 */
export async function agreeing(blob, bitmap, size, signal) {
  if (bitmap && isOpaque(bitmap) && !(await mayBeTurned(blob))) {
    if (agrees(bitmap, size)) return { bitmap, drawn: false };
    const other = await open(blob, NOT_TURNED);
    if (other && agrees(other, size)) return { bitmap: other, drawn: false };
  }
  const answer = await segment(blob, { threshold: NO_INSTANCES, visualize: true }, signal);
  const drawn = answer.result.image && (await open(fromBase64(answer.result.image)));
  if (drawn && agrees(drawn, size)) return { bitmap: drawn, drawn: true };
  return { bitmap: bitmap && agrees(bitmap, size) ? bitmap : null, drawn: false };
}

const agrees = (bitmap, size) => !size || (bitmap.height === size[0] && bitmap.width === size[1]);

/** Whether a glance finds every part opaque. A browser mixes colours of transparent pixels, the service reads them. */
function isOpaque(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = GLANCE;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, GLANCE, GLANCE);
  const { data } = context.getImageData(0, 0, GLANCE, GLANCE);
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return false;
  return true;
}

/** Whether a PNG or WebP has EXIF data. Browsers don't agree on what these mean there; for JPEG they do. */
async function mayBeTurned(blob) {
  const head = new TextDecoder("latin1").decode(await blob.slice(0, EXIF_WITHIN).arrayBuffer());
  if (head.slice(1, 4) === "PNG") return head.includes("eXIf");
  return /^RIFF[^]{4}WEBPVP8X/.test(head) && (head.charCodeAt(WEBP_FLAGS) & WEBP_EXIF) !== 0;
}

function fromBase64(text) {
  return new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))]);
}
