#!/usr/bin/env node
// Sends an image to `maskline serve`; writes the masks of its instances and the rendered image.
// Node.js 18.3 or newer; no packages.

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const ATTEMPTS = 5; // to reach a busy server
const MAX_WAIT = 60; // seconds between two of them

const USAGE = `usage: client.mjs [OPTIONS] IMAGE OUTPUT_FOLDER
  --url URL      of the server (default http://127.0.0.1:8080)
  --threshold T  lowest score, 0 to 1
  --no-image     do not render the image
  --timeout S    seconds (default 60)
MASKLINE_API_KEY in the environment is sent as the API key.`;

class Usage extends Error {}

function commandLine() {
  const text = { type: 'string' };
  const options = { url: text, threshold: text, timeout: text, 'no-image': { type: 'boolean' } };
  let parsed;
  try {
    parsed = parseArgs({ options, allowPositionals: true });
  } catch (fault) {
    throw new Usage(fault.message);
  }
  const { values, positionals } = parsed;
  if (positionals.length !== 2) throw new Usage('IMAGE and OUTPUT_FOLDER are needed');
  return {
    url: values.url ?? 'http://127.0.0.1:8080',
    threshold: values.threshold === undefined ? undefined : number(values.threshold, 0, 1),
    visualize: !values['no-image'],
    timeout: number(values.timeout ?? '60', 0.001, 86400),
    image: positionals[0],
    folder: positionals[1],
  };
}

function number(text, low, high) {
  const value = text.trim() === '' ? NaN : Number(text);
  if (!(low <= value && value <= high)) throw new Usage(`'${text}' is not a number from ${low} to ${high}`);
  return value;
}

async function run({ url, threshold, visualize, timeout, image, folder }) {
  const content = await readFile(image).catch((fault) => {
    throw new Error(`${image} can't be read: ${fault.message}`);
  });
  const request = { image: content.toString('base64'), threshold, visualize }; // undefined values are not sent
  const answer = await ask(`${url.replace(/\/+$/, '')}/instance-segmentation`, request, timeout);
  let pgm, rendered;
  try {
    pgm = labelImage(answer.result);
    rendered = answer.result.image && Buffer.from(answer.result.image, 'base64');
  } catch (fault) {
    throw new Error(`unexpected answer: ${fault.message}`);
  }
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, 'masks.pgm'), pgm);
  if (rendered) await writeFile(path.join(folder, 'rendered.jpg'), rendered);
}

/** The server's answer. If it is busy (429, 503), the request is repeated after Retry-After. */
async function ask(url, request, timeout) {
  const headers = { 'Content-Type': 'application/json' };
  const key = process.env.MASKLINE_API_KEY;
  if (key) headers.Authorization = `Bearer ${key}`;
  for (let attempt = 1; ; attempt++) {
    const { response, text } = await post(url, headers, JSON.stringify(request), timeout);
    if (![429, 503].includes(response.status) || attempt === ATTEMPTS) return checked(url, response.status, text);
    const wait = seconds(response.headers.get('Retry-After'));
    console.error(`busy (${response.status}): again in ${wait} s`);
    await sleep(wait * 1000);
  }
}

async function post(url, headers, body, timeout) {
  try {
    const response = await fetch(url, { method: 'POST', headers, body, signal: AbortSignal.timeout(timeout * 1000) });
    return { response, text: await response.text() };
  } catch (fault) {
    // fetch itself only says that it failed; the reason is the cause.
    throw new Error(`no answer from ${url}: ${fault.cause?.message || fault.cause?.code || fault.message}`);
  }
}

/** Seconds to wait, with a default if the header is missing or a date. */
function seconds(retryAfter) {
  return /^\d+$/.test(retryAfter ?? '') ? Math.min(Number(retryAfter), MAX_WAIT) : 1;
}

/** The answer, if successful. */
function checked(url, status, text) {
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = null;
  }
  if (answer === null || typeof answer !== 'object' || Array.isArray(answer)) {
    throw new Error(`${url} answered ${status} without a JSON object`);
  }
  const { errorCode, errorMsg, logId } = answer;
  if (status !== 200 || errorCode !== 0) throw new Error(`${status}: ${errorMsg} (logId ${logId})`);
  return answer;
}

/** Print the instances, best first, and number their pixels 1, 2, ... in a PGM image of 16 bits, high byte first. */
function labelImage({ instances, size: [height, width] }) {
  const head = Buffer.from(`P5\n${width} ${height}\n65535\n`);
  const labels = Buffer.alloc(height * width * 2);
  for (const [i, { bbox, categoryName, score, mask: { rleResult, size: [rows, cols] } }] of instances.entries()) {
    const top = roundHalfEven(bbox[1]), left = roundHalfEven(bbox[0]);
    if (!(Math.min(top, left, rows, cols) >= 0 && top + rows <= height && left + cols <= width)) {
      throw new Error('a mask exceeds the image');
    }
    const mask = decodeRle(rleResult, rows, cols);
    let pixels = 0;
    mask.forEach((inside, at) => {
      if (!inside) return;
      pixels++;
      const place = 2 * ((top + Math.floor(at / cols)) * width + left + (at % cols));
      if (labels.readUInt16BE(place) === 0) labels.writeUInt16BE(i + 1, place);
    });
    const sides = bbox.map((side) => side.toFixed(1));
    console.log([score.toFixed(4), ...sides, pixels, categoryName].join('\t'));
  }
  return Buffer.concat([head, labels]);
}

/** As the server rounds; Math.round would take 2.5 to 3. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/**
 * The mask, row by row, decoded from COCO's compressed RLE.
 *
 * Runs of background and foreground in turn, background first, go down the columns. From the fourth on, the difference
 * to the run two places earlier is written. A number comes in groups of five bits, lowest first, the last one's highest
 * bit its sign; 32 is added where more groups follow, and 48 to make it a character.
 */
function decodeRle(counts, rows, cols) {
  const mask = new Uint8Array(rows * cols);
  const runs = [];
  let at = 0, value = 0, unit = 1;
  for (const character of counts) {
    const group = character.charCodeAt(0) - 48;
    value += (group & 31) * unit; // shifting would be limited to 32 bits
    unit *= 32;
    if (group & 32) continue;
    if (group & 16) value -= unit;
    if (runs.length > 2) value += runs.at(-2);
    if (!(value >= 0 && at + value <= mask.length)) break;
    for (const end = at + value; at < end; at++) mask[(at % rows) * cols + Math.floor(at / rows)] = runs.length % 2;
    runs.push(value);
    [value, unit] = [0, 1];
  }
  if (at !== mask.length || unit !== 1) throw new Error(`RLE does not match ${rows} x ${cols} pixels`);
  return mask;
}

try {
  await run(commandLine());
} catch (fault) {
  console.error(`error: ${fault.message.replace(/\s+/g, ' ')}`);
  if (fault instanceof Usage) console.error(USAGE);
  process.exitCode = fault instanceof Usage ? 2 : 1;
}
