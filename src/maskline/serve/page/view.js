// The image on the screen, with what is drawn over it: it can be zoomed, moved and pointed at.
//
// Three canvases lie on each other, each with the screen's own pixels: the image, all instances, the chosen one.
// So pointing at an instance draws only that one, and the browser dims the others.

import { drawingOrder, paintAll, paintChosen, topmost } from "./paint.js";
import { Sprites } from "./sprites.js";

const MOST_ENLARGED = 8; // to fit: screen pixels for one of a small image
const MOST_ZOOMED = 40;
const SHOW_PIXELS = 3; // from this scale on pixels are squares, not smoothed
const STEP = 1.5;
const SLOP = 4; // CSS pixels that a pointer may move and still click
const WHEEL = 0.002; // of a doubling, for a pixel
const LINE_HEIGHT = 16; // of wheels that count in lines
const SETTLED = 120; // milliseconds without a movement
const LARGE = 4e6; // pixels; such an image has a smaller copy, to be drawn fast where it fits

export class View {
  #root;
  #contexts;
  #frame = { scale: 1, x: 0, y: 0, ratio: 1, width: 0, height: 0 };
  #extent = { width: 0, height: 0 }; // CSS pixels
  #fitted = true;
  #bitmap = null;
  #copy = null; // of the bitmap, as large as it is where it fits
  #order = [];
  #sprites = new Sprites();
  #looks = { masks: true, boxes: true, labels: true };
  #chosen = null;
  #pointers = new Map();
  #travelled = 0;
  #due = null;
  #moved = false; // so that the image itself has to be drawn again
  #moving = null; // the timer while it is being zoomed or moved, when speed matters more than smoothness
  #events;

  /**
   * @param {HTMLElement} root with three canvases
   * @param {{hover: Function, choose: Function, zoom: Function}} events hover and choose get an instance or null, zoom
   *   the scale and whether the image fits
   */
  constructor(root, events) {
    this.#root = root;
    this.#contexts = [...root.querySelectorAll("canvas")].map((canvas) => canvas.getContext("2d"));
    this.#events = events;
    const observer = new ResizeObserver(([entry]) => this.#resize(entry));
    watch(observer, root);
    addEventListener("resize", () => watch(observer, root)); // on a screen of another density
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    root.addEventListener("pointerup", (event) => this.#up(event));
    root.addEventListener("pointercancel", (event) => this.#pointers.delete(event.pointerId));
    root.addEventListener("pointerleave", () => this.#events.hover(null));
  }

  /** Show an image, without instances; null: an empty one of `size`, height and width. */
  show(bitmap, [height, width]) {
    const other = width !== this.#frame.width || height !== this.#frame.height;
    Object.assign(this.#frame, { width, height });
    this.#bitmap = bitmap;
    this.#copy = null;
    this.#order = [];
    this.#sprites.clear();
    this.#chosen = null;
    this.#root.style.setProperty("--aspect", `${width} / ${height}`);
    if (other || this.#fitted) this.fit();
    this.#moved = true;
    this.#redraw();
    if (bitmap && width * height > LARGE) this.#makeCopy(bitmap);
  }

  /** The instances to draw, and `masks`, `boxes`, `labels`, whether to draw these. */
  mark(instances, looks) {
    this.#order = drawingOrder(instances);
    this.#looks = looks;
    this.#redraw();
  }

  /** Let one instance stand out; null: none. */
  highlight(one) {
    if (one === this.#chosen) return;
    this.#chosen = one;
    this.#contexts[1].canvas.classList.toggle("dim", one !== null);
    this.#drawChosen();
  }

  fit() {
    const { width, height } = this.#frame;
    if (!width || !this.#extent.width) return;
    this.#fitted = true;
    this.#frame.scale = this.#fitScale();
    this.#place((this.#extent.width - width * this.#frame.scale) / 2, (this.#extent.height - height * this.#frame.scale) / 2);
  }

  zoomIn() {
    this.#zoom(STEP);
  }

  zoomOut() {
    this.#zoom(1 / STEP);
  }

  /** Everything in the image's own pixels, lines as wide in proportion as where it fits on the screen. */
  paintWhole() {
    const { width, height } = this.#frame;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    const scale = Math.min(this.#fitScale(), 1);
    const frame = { scale, x: 0, y: 0, ratio: 1 / scale, width, height };
    if (this.#bitmap) context.drawImage(this.#bitmap, 0, 0);
    paintAll(context, this.#order, this.#looks, frame);
    if (this.#chosen) paintChosen(context, this.#chosen, this.#looks, frame);
    return canvas;
  }

  #fitScale() {
    const { width, height } = this.#frame;
    return Math.min(this.#extent.width / width, this.#extent.height / height, MOST_ENLARGED / this.#frame.ratio);
  }

  #resize(entry) {
    const { inlineSize: width, blockSize: height } = entry.contentBoxSize[0];
    const device = entry.devicePixelContentBoxSize?.[0]; // not everywhere, but exact
    this.#extent = { width, height };
    this.#frame.ratio = devicePixelRatio;
    for (const { canvas } of this.#contexts) {
      canvas.width = screenPixels(width, device?.inlineSize);
      canvas.height = screenPixels(height, device?.blockSize);
    }
    if (this.#fitted) this.fit();
    else this.#place(this.#frame.x, this.#frame.y);
    this.#moved = true;
    this.#drawNow();
  }

  /** It is being zoomed or moved, until it has been left alone for a while. */
  #hurry() {
    clearTimeout(this.#moving);
    this.#moving = setTimeout(() => {
      this.#moving = null;
      this.#moved = true;
      this.#redraw();
    }, SETTLED);
  }

  /** Zoom about a point of the view, its middle if none is given. */
  #zoom(factor, x = this.#extent.width / 2, y = this.#extent.height / 2) {
    const { frame, least } = { frame: this.#frame, least: this.#fitScale() };
    const scale = Math.min(Math.max(frame.scale * factor, least), Math.max(MOST_ZOOMED, least));
    const grown = scale / frame.scale;
    this.#hurry();
    if (scale <= least * 1.001) return this.fit();
    this.#fitted = false;
    frame.scale = scale;
    this.#place(x - (x - frame.x) * grown, y - (y - frame.y) * grown);
  }

  /** Move the image's corner, but leave no gap next to it that it could fill. */
  #place(x, y) {
    const { scale, ratio, width, height } = this.#frame;
    const within = (at, extent, size) => (size <= extent ? (extent - size) / 2 : Math.min(0, Math.max(at, extent - size)));
    const sharp = (at) => Math.round(at * ratio) / ratio;
    this.#frame.x = sharp(within(x, this.#extent.width, width * scale));
    this.#frame.y = sharp(within(y, this.#extent.height, height * scale));
    this.#root.classList.toggle("zoomed", !this.#fitted);
    this.#events.zoom(scale * ratio, this.#fitted);
    this.#moved = true;
    this.#redraw();
  }

  #redraw() {
    this.#due ??= requestAnimationFrame(() => this.#drawNow());
  }

  #drawNow() {
    if (this.#due) cancelAnimationFrame(this.#due);
    this.#due = null;
    if (this.#moved) this.#drawImage();
    this.#moved = false;
    const marks = clear(this.#contexts[1]);
    if (this.#frame.width) paintAll(marks, this.#order, this.#looks, this.#frame, this.#sprites, this.#moving !== null);
    this.#drawChosen();
  }

  #drawImage() {
    const context = clear(this.#contexts[0]);
    const { scale, x, y, ratio, width, height } = this.#frame;
    if (!this.#bitmap) return;
    context.imageSmoothingEnabled = scale * ratio < SHOW_PIXELS;
    context.imageSmoothingQuality = this.#moving ? "low" : "high";
    const source = this.#copy && scale * ratio * width <= this.#copy.width * 1.01 ? this.#copy : this.#bitmap;
    context.drawImage(source, x * ratio, y * ratio, width * scale * ratio, height * scale * ratio);
  }

  #drawChosen() {
    const context = clear(this.#contexts[2]);
    if (this.#chosen) paintChosen(context, this.#chosen, this.#looks, this.#frame);
  }

  async #makeCopy(bitmap) {
    const resizeWidth = Math.round(this.#fitScale() * this.#frame.ratio * bitmap.width);
    if (!(resizeWidth > 0 && resizeWidth < bitmap.width / 1.5)) return;
    const copy = await createImageBitmap(bitmap, { resizeWidth, resizeQuality: "high" }).catch(() => null);
    if (this.#bitmap === bitmap) this.#copy = copy;
  }

  #hit(event) {
    const { x, y } = this.#point(event);
    const { scale } = this.#frame;
    return topmost(this.#order, this.#looks, (x - this.#frame.x) / scale, (y - this.#frame.y) / scale);
  }

  #point(event) {
    const { left, top } = this.#root.getBoundingClientRect();
    return { x: event.clientX - left - this.#root.clientLeft, y: event.clientY - top - this.#root.clientTop };
  }

  /** A wheel zooms where it has nothing else to do, and everywhere with Ctrl, as which pinching a touchpad arrives. */
  #wheel(event) {
    const page = document.documentElement;
    const asked = event.ctrlKey || event.metaKey;
    if (!this.#frame.width || (!asked && page.scrollHeight > page.clientHeight)) return;
    event.preventDefault();
    const { x, y } = this.#point(event);
    const pixels = event.deltaY * (event.deltaMode ? LINE_HEIGHT : 1) * (event.ctrlKey && !event.deltaMode ? 4 : 1);
    this.#zoom(2 ** (-pixels * WHEEL), x, y);
  }

  #down(event) {
    if (event.button > 0) return;
    if (!this.#pointers.size) this.#travelled = 0;
    this.#pointers.set(event.pointerId, this.#point(event));
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return this.#events.hover(this.#hit(event));
    const now = this.#point(event);
    this.#travelled += Math.hypot(now.x - before.x, now.y - before.y);
    if (this.#travelled > SLOP && !this.#root.hasPointerCapture(event.pointerId)) {
      this.#root.setPointerCapture(event.pointerId);
    }
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, before, now);
    else if (!this.#fitted) this.#pan(now.x - before.x, now.y - before.y);
    this.#pointers.set(event.pointerId, now);
  }

  #pan(x, y) {
    this.#hurry();
    this.#place(this.#frame.x + x, this.#frame.y + y);
  }

  #pinch(id, before, now) {
    const other = [...this.#pointers].find(([key]) => key !== id)[1];
    const apart = (point) => Math.max(1, Math.hypot(point.x - other.x, point.y - other.y));
    this.#zoom(apart(now) / apart(before), other.x, other.y);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId) || this.#pointers.size || this.#travelled > SLOP) return;
    this.#events.choose(this.#hit(event));
  }
}

/** Observe the size, now and whenever it changes, in pixels of the screen if the browser can. */
function watch(observer, element) {
  observer.unobserve(element);
  try {
    observer.observe(element, { box: "device-pixel-content-box" });
  } catch {
    observer.observe(element);
  }
}

/** The size that the browser reports, unless it is implausible, as when a developer emulates another density. */
function screenPixels(length, reported) {
  const expected = length * devicePixelRatio;
  return Math.abs(reported - expected) < 1 ? reported : Math.round(expected);
}

function clear(context) {
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  return context;
}
