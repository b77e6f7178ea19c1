// The page: an image with its instances, and a list of them.

import { decode, openModel, readImage, run, toJson } from "./maskline.js";

const COLOURS = ["#e6194b", "#0aa5ff", "#2fbf4a", "#f58231", "#a15bff", "#00b3a4", "#e83ec0", "#c9a400"];
const at = (id) => document.getElementById(id);
const state = {
  model: null,
  threshold: 0.5, // the model's own until the slider is moved, which would round it
  ticket: 0, // of the latest image
  shown: null, // { image, raw, name }, which belong together
  found: [], // of `shown`, above the threshold
};

async function start() {
  try {
    state.model = await openModel(new URLSearchParams(location.search).get("model") ?? "model/inference.onnx");
  } catch (error) {
    at("model").textContent = error.message;
    at("model").className = "error";
    return;
  }
  const { model, labels, threshold } = state.model.record;
  at("model").textContent = `${model} · ${labels.length === 1 ? labels[0] : `${labels.length} classes`} · runs here`;
  state.threshold = at("threshold").value = threshold;
  at("names").checked = labels.length > 1;
  at("file").disabled = false;
  showThreshold();
}

/** Segment an image and show the result, unless another one is chosen meanwhile; an unusable image changes nothing. */
async function take(file) {
  if (!file || !state.model) return;
  const ticket = ++state.ticket;
  const latest = () => ticket === state.ticket;
  report("Processing …");
  try {
    const image = await readImage(file);
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    if (!latest()) return;
    const begin = performance.now();
    const raw = await run(state.model, image);
    if (!latest()) return;
    state.shown = { image, raw, name: file.name };
    report(`${image.width} × ${image.height}, ${Math.round(performance.now() - begin)} ms`);
    show();
  } catch (error) {
    if (latest()) report(`${file.name} can't be used: ${error.message}`, "error");
  }
}

function report(text, kind = "") {
  at("status").textContent = text;
  at("status").className = kind;
}

function show() {
  if (!state.shown) return;
  state.found = decode(state.shown.raw, state.threshold);
  list();
  at("canvas").hidden = false;
  draw(null);
  at("drop").classList.add("small");
  for (const id of ["save-image", "save-json"]) at(id).disabled = false;
}

function draw(chosen) {
  const canvas = at("canvas");
  const { image } = state.shown;
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  const pixels = new ImageData(new Uint8ClampedArray(image.data), canvas.width, canvas.height);
  const line = Math.max(1, Math.round(Math.max(canvas.width, canvas.height) / 400));
  if (at("masks").checked) state.found.forEach((one, i) => paint(pixels, one, colour(i), chosen === null || chosen === i));
  context.putImageData(pixels, 0, 0);
  state.found.forEach((one, i) => {
    const [x1, y1, x2, y2] = one.box;
    context.strokeStyle = colour(i);
    context.lineWidth = chosen === i ? 2 * line : line;
    if (at("boxes").checked || chosen === i) context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  });
  const taken = [];
  const size = Math.max(10, (12 * canvas.width) / (canvas.clientWidth || canvas.width)); // as large on every screen
  if (chosen !== null) write(context, state.found[chosen], chosen, size, taken);
  if (at("names").checked) state.found.forEach((one, i) => i !== chosen && write(context, one, i, size, taken));
}

/** Blend a mask into the image; its outline, the pixels next to background, stays plain colour. */
function paint(pixels, { window: [top, bottom, left, right], mask }, hex, strong) {
  const rgb = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const width = right - left;
  const inside = (y, x) => y >= 0 && x >= 0 && y < bottom - top && x < width && mask[y * width + x];
  for (let y = 0; y < bottom - top; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      const edge = !(inside(y - 1, x) && inside(y + 1, x) && inside(y, x - 1) && inside(y, x + 1));
      const share = edge ? 1 : strong ? 0.45 : 0.15;
      const pixel = 4 * ((top + y) * pixels.width + left + x);
      for (let c = 0; c < 3; c++) pixels.data[pixel + c] += share * (rgb[c] - pixels.data[pixel + c]);
    }
  }
}

/** Write a label above its box, or omit it if it would cover that of a better instance. */
function write(context, one, i, size, taken) {
  const text = labelOf(one);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const [width, height] = [context.measureText(text).width + size / 2, 1.3 * size];
  const x = Math.max(0, Math.min(one.box[0], context.canvas.width - width));
  const y = Math.max(height, one.box[1]);
  if (taken.some((other) => Math.abs(other.y - y) < height && x < other.end && other.x < x + width)) return;
  taken.push({ x, y, end: x + width });
  context.fillStyle = colour(i);
  context.fillRect(x, y - height, width, height);
  context.fillStyle = "#fff";
  context.fillText(text, x + size / 4, y - 0.3 * size);
}

function list() {
  const { found } = state;
  const count = found.length === 1 ? "1 instance" : `${found.length} instances`;
  at("count").textContent = count;
  at("canvas").setAttribute("aria-label", `${state.shown.name}, ${count} marked`);
  const rows = found.map((one, i) => {
    const row = document.createElement("li");
    row.style.setProperty("--colour", colour(i));
    row.tabIndex = 0;
    const name = document.createElement("span");
    name.textContent = state.model.record.labels[one.label];
    const numbers = document.createElement("span");
    numbers.textContent = `${one.score.toFixed(2)} · ${one.area.toLocaleString("en")} px`;
    row.append(name, numbers);
    for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => draw(i));
    for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => draw(null));
    return row;
  });
  at("list").replaceChildren(...rows);
}

const colour = (i) => COLOURS[i % COLOURS.length];
const labelOf = (one) => `${state.model.record.labels[one.label]} ${one.score.toFixed(2)}`;

function showThreshold() {
  const short = state.threshold.toFixed(2);
  at("above").textContent = Number(short) === state.threshold ? short : state.threshold;
}

function save(blob, suffix) {
  if (!blob) return report(`${state.shown.name} can't be saved: it is too large for this browser`, "error");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.shown.name.replace(/\.[^.]*$/, "")}_res.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // browsers may begin to read it later
}

function saveImage() {
  draw(null);
  at("canvas").toBlob((blob) => save(blob, "png"));
}

function saveJson() {
  const pieces = toJson(state.found, state.model.record.labels, state.shown.name);
  save(new Blob(pieces, { type: "application/json" }), "json");
}

at("file").addEventListener("change", (event) => take(event.target.files[0]));
at("threshold").addEventListener("input", () => {
  state.threshold = Number(at("threshold").value);
  showThreshold();
  show();
});
for (const id of ["masks", "boxes", "names"]) at(id).addEventListener("change", () => state.shown && draw(null));
at("save-image").addEventListener("click", saveImage);
at("save-json").addEventListener("click", saveJson);
for (const event of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(event, (happened) => {
    happened.preventDefault();
    at("drop").classList.toggle("over", event === "dragover");
    if (event === "drop") take(happened.dataTransfer.files[0]);
  });
}
await start();
