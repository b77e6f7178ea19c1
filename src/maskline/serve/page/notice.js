// What went wrong, in words, and what can be done about it.

import { hasKey, Refusal, useKey } from "./service.js";

const at = (id) => document.getElementById(id);
const BUSY = new Set([429, 503]);
const FINAL = new Set([400, 404, 405, 413, 422]); // asking again gives the same

/** The notice above the picture. */
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

  /** Say why a picture was not looked into; `again` is what asking again does. */
  tell(error, name, again) {
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
    this.#show("Stopped", `${name} was not looked into.`, "", again);
    at("key-form").hidden = true;
    at("retry").hidden = false;
  }

  /** Say what is not a fault of the service's, and can't be helped by asking again. */
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
  if (status === 401) return hasKey() ? "The service refuses this key" : "The service needs a key";
  if (status === 429) return "The service has too much to do";
  if (status === 503) return "The service is not ready";
  if (status === 504 || status === 408) return "It took too long";
  return `${name} can't be used`;
}

function text(error) {
  if (error.status === 401) return "It is kept in this tab only, and sent to this service only.";
  if (error instanceof Refusal) return error.message;
  return `The answer can't be used: ${error.message}.`;
}
