// What the page shows: a picture, the instances on it, and a list of them.

import { decode, openModel, readPicture, run } from "./maskline.js";

const COLOURS = ["#e6194b", "#0aa5ff", "#2fbf4a", "#f58231", "#a15bff", "#00b3a4", "#e83ec0", "#c9a400"];
const SHOWN = 200; // rows of the list
const at = (id) => document.getElementById(id);
const state = { model: null, picture: null, raw: null, found: [], name: "" };

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
  at("threshold").value = threshold;
  at("names").checked = labels.length > 1;
  at("file").disabled = false;
  showThreshold();
}

async function take(file) {
  if (!file || !state.model) return;
  const status = at("status");
  status.className = "";
  status.textContent = "Looking …";
  try {
    state.picture = await readPicture(file);
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const begin = performance.now();
    state.raw = await run(state.model, state.picture);
    status.textContent = `${state.picture.width} × ${state.picture.height}, ${Math.round(performance.now() - begin)} ms`;
    state.name = file.name.replace(/\.[^.]*$/, "");
    show();
  } catch (error) {
    status.textContent = `${file.name} can't be used: ${error.message}`;
    status.className = "error";
  }
}

function show() {
  if (!state.raw) return;
  state.found = decode(state.raw, Number(at("threshold").value));
  list();
  at("canvas").hidden = false;
  draw(null);
  at("drop").classList.add("small");
  for (const id of ["save-picture", "save-json"]) at(id).disabled = false;
}

function draw(chosen) {
  const canvas = at("canvas");
  [canvas.width, canvas.height] = [state.picture.width, state.picture.height];
  const context = canvas.getContext("2d");
  const image = new ImageData(new Uint8ClampedArray(state.picture.data), canvas.width, canvas.height);
  const line = Math.max(1, Math.round(Math.max(canvas.width, canvas.height) / 400));
  if (at("masks").checked) state.found.forEach((one, i) => paint(image, one, colour(i), chosen === null || chosen === i));
  context.putImageData(image, 0, 0);
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

/** Blend a mask into the picture; its outline, the pixels beside background, stays plain colour. */
function paint(image, { window: [top, bottom, left, right], mask }, hex, strong) {
  const rgb = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const width = right - left;
  const inside = (y, x) => y >= 0 && x >= 0 && y < bottom - top && x < width && mask[y * width + x];
  for (let y = 0; y < bottom - top; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      const edge = !(inside(y - 1, x) && inside(y + 1, x) && inside(y, x - 1) && inside(y, x + 1));
      const share = edge ? 1 : strong ? 0.45 : 0.15;
      const pixel = 4 * ((top + y) * image.width + left + x);
      for (let c = 0; c < 3; c++) image.data[pixel + c] += share * (rgb[c] - image.data[pixel + c]);
      image.data[pixel + 3] = 255;
    }
  }
}

/** Write a label above its box, or leave it out where it would cover that of a better instance. */
function write(context, one, i, size, taken) {
  const text = told(one);
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
  at("count").textContent = found.length === 1 ? "1 instance" : `${found.length} instances`;
  const rows = found.slice(0, SHOWN).map((one, i) => {
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
const told = (one) => `${state.model.record.labels[one.label]} ${one.score.toFixed(2)}`;
const showThreshold = () => (at("above").textContent = Number(at("threshold").value).toFixed(2));

function save(blob, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.name}_res.${suffix}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function asJson() {
  const boxes = state.found.map(({ label, score, box, area }) => {
    return { cls_id: label, label: state.model.record.labels[label], score, coordinate: box, area };
  });
  return JSON.stringify({ input_path: state.name, boxes }, null, 2);
}

at("file").addEventListener("change", (event) => take(event.target.files[0]));
at("threshold").addEventListener("input", () => {
  showThreshold();
  show();
});
for (const id of ["masks", "boxes", "names"]) at(id).addEventListener("change", () => state.raw && draw(null));
at("save-picture").addEventListener("click", () => at("canvas").toBlob((blob) => save(blob, "png")));
at("save-json").addEventListener("click", () => save(new Blob([asJson()], { type: "application/json" }), "json"));
for (const event of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(event, (happened) => {
    happened.preventDefault();
    at("drop").classList.toggle("over", event === "dragover");
    if (event === "drop") take(happened.dataTransfer.files[0]);
  });
}
await start();
