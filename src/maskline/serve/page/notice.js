// Error messages, and what can be done about them.

import { hasKey, Refusal, useKey } from "./service.js";

const at = (id) => document.getElementById(id);
const BUSY = new Set([429, 503]);
const FINAL = new Set([400, 404, 405, 413, 422]); // asking again gives the same

/** The notice above the image. */
export class Notice {
  #again = () => {};
  #timer = null;

  /** `keyed` is called when a key has been given. */
  constructor(keyed) {
    at("retry").addEventListener("click", () => this.#again());
    at("dismiss").addEventListener("click", () => this.hide());
    at("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      useKey(at("key").value.trim());
      keyed();
      this.#again();
    });
  }

  hide() {
    clearInterval(this.#timer);
    at("notice").hidden = true;
  }

  /** Say why an image was not processed; `again` repeats the request. */
  report(error, name, again) {
    const { status = 0, retryAfter = null } = error;
    this.#show(title(error, name), text(error), status === 401 && !hasKey() ? "" : "fault", again);
    at("key-form").hidden = status !== 401;
    at("retry").hidden = status === 401 || FINAL.has(status);
    if (status === 401) {
      at("key").focus();
      at("key").select();
    }
    if (BUSY.has(status) && retryAfter) this.#countDown(retryAfter);
  }

  /** Say that the user has stopped it. */
  stopped(name, again) {
    this.#show("Stopped", `${name} was not processed.`, "", again);
    at("key-form").hidden = true;
    at("retry").hidden = false;
  }

  /** Report an error that is not the service's, and that repeating the request would not solve. */
  warn(heading, words) {
    this.#show(heading, words, "fault", () => {});
    at("key-form").hidden = at("retry").hidden = true;
  }

  #show(heading, words, kind, again) {
    this.hide();
    this.#again = again;
    at("notice").className = `notice ${kind}`;
    at("notice").hidden = false;
    at("notice-title").textContent = heading;
    at("notice-text").textContent = words;
    this.#ready();
  }

  #ready() {
    clearInterval(this.#timer);
    at("retry").textContent = "Try again";
    at("retry").disabled = false;
  }

  /** The button waits as long as the service asks for. */
  #countDown(seconds) {
    const end = performance.now() + 1000 * seconds;
    const tick = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      if (left <= 0) return this.#ready();
      at("retry").textContent = `Try again in ${left} s`;
    };
    at("retry").disabled = true;
    tick();
    this.#timer = setInterval(tick, 250);
  }
}

function title({ status }, name) {
  if (status === 401) return hasKey() ? "Invalid API key" : "The service requires an API key";
  if (status === 429) return "The service is busy";
  if (status === 503) return "The service is not ready";
  if (status === 504 || status === 408) return "The request timed out";
  return `${name} can't be processed`;
}

function text(error) {
  if (error.status === 401) return "The key is kept in this tab only and sent to this service only.";
  if (error instanceof Refusal) return error.message;
  return `Invalid response: ${error.message}.`;
}
