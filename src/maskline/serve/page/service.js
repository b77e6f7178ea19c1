// Requests to the service, and its errors. URLs are relative, since the page may be behind a prefix.

const ROUTE = "instance-segmentation";
const KEY = "maskline.apiKey"; // in the session's storage, which ends with the tab
const EXAMPLE = "page/example.png";
let key = stored();

/** A response without a result. `status` is HTTP's, 0 where there was none; `retryAfter` in seconds, or null. */
export class Refusal extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    Object.assign(this, { name: "Refusal", status, retryAfter });
  }
}

/**
 * Segment an image.
 *
 * @param {Blob} image an encoded image
 * @param {{threshold: number, visualize: boolean}} options
 * @param {AbortSignal} signal
 * @returns {Promise<object>} the whole answer
 * @throws {Refusal}
 */
export async function segment(image, options, signal) {
  const body = JSON.stringify({ image: await base64(image), ...options });
  signal.throwIfAborted();
  const response = await reach(ROUTE, { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
  const answer = await readAnswer(response);
  if (!response.ok) throw new Refusal(reason(answer, response), response.status, retryAfter(response));
  if (!Array.isArray(answer?.result?.instances)) throw new Refusal("The response contains no instances.");
  return answer;
}

/** Name and classes of the model, each null if the service does not provide it. */
export async function describe() {
  try {
    const { parameters } = await (await reach(`v2/models/${ROUTE}`)).json();
    const classes = Array.isArray(parameters?.classes) ? parameters.classes.map(String) : null;
    return { model: parameters?.model ? String(parameters.model) : null, classes };
  } catch {
    return { model: null, classes: null };
  }
}

/** An image to begin with, where the service has one; else null. */
export async function example() {
  try {
    const response = await reach(EXAMPLE);
    return response.ok ? await response.blob() : null;
  } catch {
    return null;
  }
}

/** Keep the key for this tab, and send it with all further requests. */
export function useKey(text) {
  key = text;
  try {
    sessionStorage.setItem(KEY, text);
  } catch {
    // storage is blocked: the key lasts until the page is left
  }
}

export const hasKey = () => key !== "";

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

async function reach(address, { headers = {}, ...options } = {}) {
  try {
    return await fetch(address, { ...options, headers: key ? { ...headers, "X-API-Key": key } : headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(key && !isHeader(key) ? "The key contains invalid characters." : "The service can't be reached.");
  }
}

const isHeader = (text) => /^[\x20-\x7e]*$/.test(text);

/** Base64 of a blob, without the beginning of a data: URL. */
function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Refusal("The file can't be read."));
    reader.readAsDataURL(blob);
  });
}

/** The body as JSON, null if it is not, such as that of a proxy in between. */
async function readAnswer(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return null;
  }
}

/** The reason in words. That of a wrong request is a list, as text. */
function reason(answer, { status, statusText }) {
  const text = answer?.errorMsg;
  if (typeof text !== "string") return `Status ${status} ${statusText}`.trim();
  try {
    const faults = JSON.parse(text).map((fault) => String(fault.msg));
    return faults.join("; ") || text;
  } catch {
    return text;
  }
}

/** Seconds until the service may be asked again: a number or a date, as HTTP has it. */
function retryAfter({ headers }) {
  const text = headers.get("Retry-After");
  if (text === null) return null;
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}
