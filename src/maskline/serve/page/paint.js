// Masks, outlines, boxes and labels on a canvas. Lines and letters are as wide on the screen at any zoom.
//
// A frame says where the image lies: `scale` CSS pixels for a pixel of it, its corner at (`x`, `y`) CSS pixels, `ratio`
// pixels of the canvas for a CSS pixel, and its `width` and `height` in its own pixels.

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Noto Sans CJK SC', sans-serif";
const LETTERS = 12; // CSS pixels, as all below
const LABEL = { height: 18, inset: 6, radius: 4 };
const LINE = { outline: 1.5, box: 1, chosen: 2, casing: 5 };
const SHADE = "rgb(0 0 0 / 45%)"; // over all but the chosen one
const FILL = { all: 0.38, chosen: 0.45 };

/** The order to draw in: large ones first, so that small ones that lie in them are seen and can be pointed at. */
export function drawingOrder(instances) {
  return [...instances].sort((a, b) => b.area - a.area || b.number - a.number);
}

/** The topmost instance at a point of the image, null if there is none. */
export function topmost(order, looks, x, y) {
  const hit = looks.masks || !looks.boxes ? (one) => one.covers(x, y) : (one) => one.boxCovers(x, y);
  return order.findLast(hit) ?? null;
}

/** Draw all, in `drawingOrder`; looks: which of `masks`, `boxes`, `labels`; sprites: to keep masks in, or null. */
export function paintAll(context, order, looks, frame, sprites = null, hurried = false) {
  for (const one of order) {
    const sprite = looks.masks ? sprites?.of(one, frame, paintMask, hurried) : null;
    if (sprite) paste(context, sprite, frame);
    else if (looks.masks) paintMask(context, one, frame);
    toImage(context, frame);
    if (looks.boxes) box(context, one, (looks.masks ? 1 : 2) * (LINE.box / frame.scale));
  }
  if (looks.labels) paintLabels(context, order, frame);
}

/** Draw one that stands out: the others in the shade, its label in any case. */
export function paintChosen(context, one, looks, frame) {
  toImage(context, frame);
  context.lineJoin = "round";
  const rest = new Path2D();
  rest.rect(0, 0, frame.width, frame.height);
  rest.addPath(path(one, frame));
  context.fillStyle = SHADE;
  context.fill(rest, "evenodd");
  fill(context, one, FILL.chosen, path(one, frame));
  if (looks.boxes) box(context, one, LINE.box / frame.scale);
  outline(context, path(one, frame), one.colour, LINE.casing / frame.scale);
  outline(context, path(one, frame), "#fff", LINE.chosen / frame.scale);
  paintLabels(context, [one], frame);
}

function paintMask(context, one, frame) {
  toImage(context, frame);
  context.lineJoin = "round";
  fill(context, one, FILL.all, path(one, frame));
  outline(context, path(one, frame), one.colour, LINE.outline / frame.scale);
}

function paste(context, sprite, { ratio, x, y }) {
  context.setTransform(sprite.factor, 0, 0, sprite.factor, Math.round(x * ratio), Math.round(y * ratio));
  context.drawImage(sprite.canvas, sprite.x, sprite.y);
}

function toImage(context, { ratio, scale, x, y }) {
  context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
}

const path = (one, { scale, ratio }) => one.path(scale * ratio);

function fill(context, one, share, path) {
  context.globalAlpha = share;
  context.fillStyle = one.colour;
  context.fill(path, "evenodd");
  context.globalAlpha = 1;
}

function outline(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

function box(context, { box: [x1, y1, x2, y2], colour }, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

/** Write labels, the best first, above their boxes; one that would cover that of a better instance is left out. */
function paintLabels(context, instances, frame) {
  context.setTransform(frame.ratio, 0, 0, frame.ratio, 0, 0);
  context.font = `600 ${LETTERS}px ${FONT}`;
  context.textBaseline = "middle";
  const taken = [];
  for (const one of [...instances].sort((a, b) => a.number - b.number)) {
    const text = `${one.name} ${one.score.toFixed(2)}`;
    const place = labelPlace(one.box, context.measureText(text).width + 2 * LABEL.inset, frame);
    if (taken.some((other) => overlap(other, place))) continue;
    taken.push(place);
    writeLabel(context, text, place, one.colour);
  }
}

/** Above the box, or in it where there is no room above; kept within the image at the sides. */
function labelPlace([x1, y1], width, { scale, x, y, width: imageWidth }) {
  const right = x + imageWidth * scale - width;
  const left = Math.max(x, Math.min(x + x1 * scale - 1, right));
  const top = y + y1 * scale - LABEL.height - 2;
  return { left, top: top < y ? y + y1 * scale + 2 : top, width };
}

function overlap(a, b) {
  const apart = a.left + a.width < b.left || b.left + b.width < a.left || Math.abs(a.top - b.top) > LABEL.height;
  return !apart;
}

function writeLabel(context, text, { left, top, width }, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(left, top, width, LABEL.height, LABEL.radius);
  context.fill();
  context.fillStyle = inkOn(colour);
  context.fillText(text, left + LABEL.inset, top + LABEL.height / 2 + 0.5);
}

/** White or near black, whichever is easier to read on a colour. */
function inkOn(hex) {
  const [red, green, blue] = [1, 3, 5].map((i) => (parseInt(hex.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.22 ? "#10131a" : "#fff";
}
