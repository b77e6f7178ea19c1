// The list of instances. One row can have the focus, one can be pinned, and one stands out in the image.

const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

export class InstanceList {
  #root;
  #rows = [];
  #shown = 0;
  #current = 0; // the row that the Tab key leads to
  #events;

  /**
   * @param {HTMLElement} root a listbox
   * @param {{hover: Function, focus: Function, choose: Function}} events each gets an instance; hover and focus may get
   *   null
   */
  constructor(root, events) {
    this.#root = root;
    this.#events = events;
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** List other instances, none of them shown yet. */
  fill(instances) {
    this.#rows = instances.map((one, index) => this.#row(one, index));
    this.#shown = 0;
    this.#root.replaceChildren(...this.#rows);
    this.#root.scrollTop = 0;
    this.#lead(0);
  }

  /** Show the first `count` instances. */
  limit(count) {
    this.#rows.forEach((row, index) => (row.hidden = index >= count));
    this.#shown = count;
    if (this.#current >= count) this.#lead(Math.max(0, count - 1));
  }

  /** Which one stands out, and which is pinned; -1 or an index. */
  mark(active, pinned) {
    this.#rows.forEach((row, index) => {
      row.classList.toggle("active", index === active);
      row.setAttribute("aria-selected", String(index === pinned));
    });
    if (active >= 0) this.#reveal(this.#rows[active]);
  }

  /** Move the focus by an arrow key or its like. Returns whether the key was one. */
  step(key) {
    if (!(key in KEYS) || !this.#shown) return false;
    const inList = this.#root.contains(document.activeElement);
    const next = inList || !Number.isFinite(KEYS[key]) ? this.#current + KEYS[key] : this.#current;
    this.#lead(Math.min(Math.max(next, 0), this.#shown - 1));
    this.#rows[this.#current].focus({ preventScroll: true });
    return true;
  }

  /** Let the Tab key and the arrow keys go on from here. */
  lead(index) {
    this.#lead(index);
  }

  #lead(index) {
    this.#rows[this.#current]?.setAttribute("tabindex", "-1");
    this.#current = index;
    this.#rows[index]?.setAttribute("tabindex", "0");
  }

  #row(one, index) {
    const row = document.createElement("li");
    row.role = "option";
    row.tabIndex = -1;
    row.style.setProperty("--colour", one.colour);
    const [score, area, percent] = [one.score.toFixed(2), one.area.toLocaleString("en"), toPercent(one.share)];
    const cells = [one.number, one.name, score, short(one.area), percent];
    row.append(...["number", "name", "score", "area", "share"].map((kind, i) => cell(kind, cells[i])));
    row.title = one.name;
    row.ariaLabel = `${one.name} ${one.number}, score ${score}, ${area} pixels, ${percent}`;
    row.addEventListener("pointerenter", () => this.#events.hover(one));
    row.addEventListener("pointerleave", () => this.#events.hover(null));
    row.addEventListener("focus", () => (this.#lead(index), this.#events.focus(one)));
    row.addEventListener("blur", () => this.#events.focus(null));
    row.addEventListener("click", () => this.#events.choose(one));
    return row;
  }

  #key(event) {
    if (event.key === "Enter" || event.key === " ") event.target.click();
    else if (!this.step(event.key)) return;
    event.preventDefault();
  }

  /** Scroll the list, but never the page, as `scrollIntoView` would. */
  #reveal(row) {
    const { scrollTop, clientHeight } = this.#root;
    const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
    if (top < scrollTop) this.#root.scrollTop = top;
    else if (bottom > scrollTop + clientHeight) this.#root.scrollTop = bottom - clientHeight;
  }
}

function cell(kind, text) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  return span;
}

const short = (area) => (area < 1e6 ? area.toLocaleString("en") : `${(area / 1e6).toFixed(2)}\u00a0M`);

function toPercent(share) {
  const percent = 100 * share;
  const text = percent > 0 && percent < 0.01 ? "<0.01" : percent.toFixed(percent < 10 ? 2 : 1);
  return `${text}\u00a0%`;
}
