// The page: an image is taken, the service processes it, and the result is shown.

import { Histogram } from "./histogram.js";
import { above, readInstances } from "./instances.js";
import { InstanceList } from "./list.js";
import { Notice } from "./notice.js";
import { agreeing, open } from "./image.js";
import { answerAbove, saveJson, savePng } from "./save.js";
import { describe, example, segment } from "./service.js";
import { View } from "./view.js";

const at = (id) => document.getElementById(id);
const FLOOR = 0.05; // the service is asked once, for all that the slider can show
const SILENCE = 500; // milliseconds before a change is announced
const TICK = 100; // milliseconds
const MAX_LISTED_CLASSES = 12;

const state = {
  work: null, // { controller, name, again } of the image being processed
  shown: null, // { name, answer, instances, scores }, which belong together; only the name while the rest is awaited
  count: 0, // of the instances, best first, that are above the threshold
  hovered: null,
  focused: null,
  pinned: null,
  classes: null,
  labelsChosen: false, // by the user, who then knows better
};
const view = new View(at("view"), { hover: pointTo("hovered"), choose: pin, zoom: showZoom });
const list = new InstanceList(at("list"), { hover: pointTo("hovered"), focus: pointTo("focused"), choose: pin });
const histogram = new Histogram(at("histogram"), FLOOR);
const notice = new Notice(showModel);

/** Process an image. It replaces the one before as soon as it can be shown, and the next one replaces it. */
async function take(blob, name) {
  state.work?.controller.abort();
  const work = (state.work = { controller: new AbortController(), name, again: () => take(blob, name) });
  const { signal } = work.controller;
  notice.hide();
  const timer = showBusy(name);
  try {
    const bitmap = await open(blob);
    signal.throwIfAborted();
    if (bitmap) show({ name }, bitmap, [bitmap.height, bitmap.width]);
    await look(blob, name, bitmap, signal);
  } catch (error) {
    if (!signal.aborted) notice.report(error, name, work.again);
  } finally {
    clearInterval(timer);
    if (state.work === work) rest();
  }
}

/** Ask the service, and show what it answers. */
async function look(blob, name, bitmap, signal) {
  const begin = performance.now();
  const answer = await segment(blob, { threshold: FLOOR, visualize: false }, signal);
  const took = performance.now() - begin;
  const image = await agreeing(blob, bitmap, answer.result.size ?? null, signal);
  signal.throwIfAborted();
  const size = answer.result.size ?? (image.bitmap && [image.bitmap.height, image.bitmap.width]);
  if (!size) throw new RangeError("the image size is missing");
  const instances = readInstances(answer.result.instances, size);
  show({ name, answer, instances, scores: instances.map(({ score }) => score) }, image.bitmap, size);
  if (!document.querySelector("aside:focus-within")) at("view").focus({ preventScroll: true }); // arrow keys go on from here
  at("facts").textContent = `${facts(name, size)} · ${duration(took)}${origin(image)}`;
}

/** Nothing is being processed. */
function rest() {
  state.work = null;
  at("busy").hidden = true;
  update();
}

/** Stop processing the current image; a later one is not affected. */
function stop() {
  const { controller, name, again } = state.work;
  controller.abort();
  notice.stopped(name, again);
  rest();
}

/** Show an image and, if they are known, its instances. */
function show(shown, bitmap, size) {
  Object.assign(state, { shown, hovered: null, focused: null, pinned: null });
  document.querySelector("main").dataset.state = "open";
  at("facts").textContent = facts(shown.name, size);
  view.show(bitmap, size);
  list.fill(shown.instances ?? []);
  histogram.fill(shown.scores ?? []);
  at("save-json").disabled = !shown.answer;
  at("save-png").disabled = !shown.answer || !bitmap;
  if (shown.answer && !state.labelsChosen) at("labels").checked = hasSeveral(shown.instances.map((one) => one.name));
  update();
}

/** Show what the threshold and the switches leave. */
function update() {
  const { shown } = state;
  const threshold = Number(at("threshold").value);
  at("above").textContent = threshold.toFixed(2);
  at("threshold").style.setProperty("--share", (threshold - FLOOR) / (at("threshold").max - FLOOR));
  histogram.split(threshold);
  if (!shown) return;
  const { instances = [], scores = [] } = shown;
  state.count = above(scores, threshold);
  const looks = { masks: at("masks").checked, boxes: at("boxes").checked, labels: at("labels").checked };
  view.mark(instances.slice(0, state.count), looks);
  list.limit(state.count);
  for (const kind of ["hovered", "focused", "pinned"]) if (state[kind]?.number > state.count) state[kind] = null;
  highlight();
  showCount(threshold);
}

function showCount(threshold) {
  const { name, answer, instances = [], scores = [] } = state.shown;
  const all = answer?.result.instances.length ?? 0;
  const of = all > instances.length ? `the best ${instances.length} of ${all}` : all;
  at("count").textContent = answer && all ? `${state.count} of ${of} instances` : "Instances";
  at("none").hidden = state.count > 0;
  at("none-text").textContent = noneText(scores, threshold);
  const best = Math.floor(100 * (scores[0] ?? 0) - 1) / 100;
  at("lower").hidden = state.count > 0 || best < FLOOR;
  at("lower").textContent = `Lower the threshold to ${best.toFixed(2)}`;
  at("lower").value = best;
  at("view").ariaLabel = answer ? `${name}, ${state.count} instances marked` : name;
  if (answer) say(state.count ? `${name}: ${at("count").textContent}` : at("none-text").textContent);
}

/** Why the list is empty. */
function noneText(scores, threshold) {
  if (state.work && !state.shown.answer) return "Processing …";
  if (!state.shown.answer) return "No result.";
  if (scores.length) return `No instances above ${threshold.toFixed(2)}. The best score is ${scores[0].toFixed(2)}.`;
  const { classes } = state;
  const names = classes && classes.length <= MAX_LISTED_CLASSES ? ` Classes of this model: ${classes.join(", ")}.` : "";
  return `No instances found.${names}`;
}

/** What stands out: what is pointed at, else what has the focus, else what is pinned. */
function highlight() {
  const active = state.hovered ?? state.focused ?? state.pinned;
  view.highlight(active);
  list.mark((active?.number ?? 0) - 1, (state.pinned?.number ?? 0) - 1);
  at("view").classList.toggle("pointing", state.hovered !== null);
}

function pointTo(kind) {
  return (one) => {
    state[kind] = one;
    highlight();
  };
}

/** Let an instance stand out until another one is chosen, or the same again, or nothing. */
function pin(one) {
  state.pinned = one === state.pinned ? null : one;
  if (state.pinned) list.lead(state.pinned.number - 1);
  highlight();
}

function unpin() {
  Object.assign(state, { hovered: null, focused: null, pinned: null });
  highlight();
}

/** Show the elapsed time, until the returned timer is cleared. */
function showBusy(name) {
  const begin = performance.now();
  const tick = () => (at("elapsed").textContent = `Processing … ${((performance.now() - begin) / 1000).toFixed(1)} s`);
  at("busy").hidden = false;
  tick();
  say(`Processing ${name}`);
  return setInterval(tick, TICK);
}

function showZoom(scale, fits) {
  at("fit").textContent = `${Math.round(100 * scale)} %`;
  at("zoom-out").disabled = at("fit").disabled = fits;
}

/** Announce a text to screen readers, once the page has stopped changing. */
function say(text) {
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (at("status").textContent = text), SILENCE);
}

async function showModel() {
  const { model, classes } = await describe();
  state.classes = classes;
  const several = classes !== null && classes.length > 1;
  at("model").textContent = [model, !several && classes?.[0]].filter(Boolean).join(" · ");
  at("model").hidden = at("model").textContent === "";
  at("classes").hidden = !several;
  at("classes").firstElementChild.textContent = `${classes?.length} classes`;
  at("classes").lastElementChild.replaceChildren(...(classes ?? []).map((name) => item(name)));
}

function item(text) {
  return Object.assign(document.createElement("li"), { textContent: text });
}

async function offerExample() {
  const blob = await example();
  const bitmap = blob && (await open(blob));
  if (!bitmap) return;
  const canvas = at("thumbnail");
  const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  at("example").hidden = false;
  at("example").addEventListener("click", () => take(blob, "example.png"));
}

const hasSeveral = (names) => new Set(names).size > 1;
const facts = (name, [height, width]) => `${name} · ${width}\u00a0×\u00a0${height}`;
const duration = (took) => (took < 10_000 ? `${Math.round(took)}\u00a0ms` : `${(took / 1000).toFixed(1)}\u00a0s`);

function origin({ bitmap, drawn }) {
  if (drawn) return " · rendered by the service, because this browser can't show it faithfully";
  return bitmap ? "" : " · this browser can't display it";
}

/** Take what was dropped, pasted or chosen, if it is a file. Returns whether it was. */
function takeFirst(files, name = files[0]?.name) {
  if (!files.length) return false;
  take(files[0], name);
  return true;
}

function listenForImages() {
  at("file").addEventListener("change", ({ target }) => {
    takeFirst(target.files);
    target.value = ""; // so that the same file can be chosen again
  });
  for (const id of ["choose", "choose-first"]) at(id).addEventListener("click", () => at("file").click());
  document.addEventListener("paste", (event) => {
    if (takeFirst(event.clipboardData.files, "pasted.png")) event.preventDefault();
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") takeFirst(event.dataTransfer.files);
    });
  }
}

function listenForControls() {
  at("threshold").addEventListener("input", update);
  for (const id of ["masks", "boxes", "labels"]) at(id).addEventListener("change", update);
  at("labels").addEventListener("change", () => (state.labelsChosen = true));
  at("lower").addEventListener("click", ({ target }) => {
    at("threshold").value = target.value;
    update();
    at("threshold").focus();
  });
  at("cancel").addEventListener("click", stop);
  at("zoom-in").addEventListener("click", () => view.zoomIn());
  at("zoom-out").addEventListener("click", () => view.zoomOut());
  at("fit").addEventListener("click", () => view.fit());
  at("save-json").addEventListener("click", () => {
    saveJson(state.shown.name, answerAbove(state.shown.answer, Number(at("threshold").value)));
  });
  at("save-png").addEventListener("click", async () => {
    const { name } = state.shown;
    if (!(await savePng(name, view.paintWhole()))) notice.warn(`${name} can't be saved`, "The image is too large for this browser.");
  });
}

function hasModifier({ ctrlKey, metaKey, altKey }) {
  return ctrlKey || metaKey || altKey;
}

function listenForKeys() {
  const keys = { "+": () => view.zoomIn(), "=": () => view.zoomIn(), "-": () => view.zoomOut(), 0: () => view.fit() };
  at("view").addEventListener("keydown", (event) => {
    if (!hasModifier(event) && list.step(event.key)) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || hasModifier(event) || event.target.matches("input[type=password], input[type=text]")) return;
    keys[event.key]();
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (state.work) stop();
    else if (at("classes").open) at("classes").open = false;
    else if (state.hovered ?? state.focused ?? state.pinned) unpin();
    else notice.hide();
  });
}

listenForImages();
listenForControls();
listenForKeys();
update();
await Promise.all([showModel(), offerExample()]);
