// The browser around charts, filters, list and picture: what they do together, controls and keys.

const LAYERS = [["all", "all four", "a"], ["image", "image", "i"], ["truth", "ground truth", "t"],
  ["prediction", "prediction", "p"], ["errors", "errors", "e"], ["confidence", "confidence", "c"],
  ["before", "before", "b"]];
const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };
const CONFIDENT = `linear-gradient(90deg, ${CIVIDIS.map((color) => `rgb(${color})`).join()})`;
const WRONG = "#ff7a00";
const MORE = [[Object.keys(STEPS).join(" "), "step through the list"], ["n", "write a note"], ["Escape", "leave it"],
  ["wheel", "zoom"], ["drag", "move"], ["right click", "Create New View for Cell Output: a tab at full width"]];

class Browser extends Panel {
  constructor(source, root) {
    super();
    // named: [keys, what they do]; past: what undo takes back
    Object.assign(this, { source, root, at: 0, asked: 0, keys: {}, named: [], past: [], ahead: null });
    Object.assign(root, { className: "seg-browser", tabIndex: 0 });
    root.dataset.lmSuppressShortcuts = "true";  // JupyterLab would take j, k and the arrows for itself
    // Also when a hidden notebook comes back.
    this.observer = new ResizeObserver(() => {
      if (this.row) { this.list.select(this.at); this.picture.draw(); this.map?.draw(); }
    });
    source.open().then((data) => this.build(data));
  }

  build(data) {
    const { colors, names, rows } = data, { root, source } = this;
    Object.assign(this, { data, colors, names, chosen: [], editable: !source.readOnly });
    this.failed = new Set(rows.filter((row) => row.failed).map(({ id }) => id));
    this.filters = new Filters(root, data, (top) => this.refill(top));
    this.filters.saved(this.editable && ((views) => source.ask("keep", { views })));
    const bar = make(root, "div", "seg-bar"), views = make(root, "div", "seg-charts");
    this.charts = new Charts(views, data, this.filters);
    const page = make(root, "div", "seg-page"), inside = (host, ...all) => all.map((name) => make(host, "div", name));
    const [left, main, verdict, facts] = inside(page, "seg-left", "seg-main", "seg-verdicts", "seg-facts");
    Object.assign(this, { main, facts, count: make(left, "div", "seg-count"), thumbs: new Thumbs(source, root) });
    this.list = new List(left, this.thumbs, (index, several) => this.pick(index, several));
    const steps = make(left, "div", "seg-bar"), step = (by) => () => this.go(this.at + by);
    this.previous = this.button(steps, "‹ Previous", "the failure before", ["ArrowLeft", "k"], step(-1));
    this.next = this.button(steps, "Next ›", "the failure after", ["ArrowRight", "j"], step(1));
    for (const [key, by] of Object.entries(STEPS)) this.keys[key] = step(by);
    this.controls(make(main, "div", "seg-bar"));
    const focused = () => root.contains(root.getRootNode().activeElement);
    this.picture = new Picture(make(main, "div", "seg-picture"), colors, (at) => this.read(at), focused);
    [this.readout, this.legend, this.problems] = inside(main, "seg-readout", "seg-legend", "seg-problem");
    [this.strip, this.near, this.alike] = inside(main, "seg-strip", "seg-near", "seg-near");
    this.problems.role = "alert";
    this.judging(verdict);
    this.panels(bar, views);
    root.addEventListener("keydown", (event) => this.key(event));
    this.observer.observe(this.filters.bar);  // its size does not depend on the picture's
    this.read(null);
    this.filters.text = source.filters;
    this.refill();
    if (this.editable) this.resend();
  }

  close() { this.keep(); this.source.close?.(); this.observer.disconnect(); }

  // A row of the list was clicked, to go there or to mark all from the one on show.
  pick(index, several) {
    this.root.focus({ preventScroll: true });
    const [from, to] = [index, this.at].sort((a, b) => a - b);
    this.list.marked = new Set(several ? this.chosen.slice(from, to + 1) : []);
    this.list.draw();
    if (several) this.count.textContent = `${to - from + 1} marked: a verdict is given to all of them`;
    else this.go(index);
  }

  // A button, and the keys that press it.
  button(host, text, title, keys, answer) {
    const element = button(host, text, `${title} (${keys.join(", ")})`, answer);
    for (const key of keys) this.keys[key] = () => element.click();
    this.named.push([keys.join(" "), title]);
    return element;
  }

  // What can be shown above the list, the button that ends a review, and all keys.
  panels(bar, views) {
    const toggle = (name, key, box, shown) => {
      const press = this.button(bar, name, `show or hide the ${name}`, [key], () => { set(box.hidden); this.redraw(); });
      const set = (on) => { box.hidden = !on; press.ariaPressed = String(on); };
      set(shown);
    };
    toggle("charts", "v", views, true);
    if (this.data.rows.some((row) => row.x != null)) {
      const host = make(this.root, "div", "seg-mapped");
      views.after(host);
      this.map = new Embedding(host, this.data, {
        lasso: (text) => { this.filters.set("map", text); this.refill(); },
        open: (id, training) => this.open(id, training),
        thumb: (id, training) => this.source.thumb(id, training),
      });
      toggle("map", "m", host, false);
    }
    const keys = make(this.root, "dialog", "seg-all");
    this.button(bar, "?", "all keys", ["?"], () => (keys.open ? keys.close() : keys.showModal()));
    const lines = [...this.named, ...MORE].map(([key, text]) => key.replaceAll("Arrow", "").padEnd(34) + text);
    make(keys, "pre", "", lines.join("\n"));
    if (!this.editable) return;
    const text = make(this.root, "pre", "seg-written");
    bar.after(text);
    button(bar, "Write actions and report", "actions.yaml and report.html, of the verdicts so far", async () => {
      text.textContent = "writing …";
      const told = await this.source.ask("write").catch(() => ({ error: "run this cell again" }));
      text.textContent = told.text ?? `not written: ${told.error}`;
    });
  }

  redraw() { this.charts.draw(); this.map?.draw(this.chosen); }

  controls(bar) {
    this.layers = LAYERS.map(([view, text, key]) =>
      [view, this.button(bar, text, `layer: ${text}`, [key], () => this.look({ view }))]);
    const outline = () => this.look({ suspect: !this.picture.suspect });
    this.region = this.button(bar, "suspect", "outline the suspect region", ["s"], outline);
    for (const [name, max, value] of [["opacity", 100, 60], ["brightness", 1000, 100], ["contrast", 400, 100]]) {
      const slider = field(bar, "seg-opacity", name, { type: "range", max, value });
      slider.oninput = () => this.look({ [name]: slider.value / 100 });
    }
    this.button(bar, "−", "zoom out", ["-"], () => this.picture.zoomBy(1 / 1.5));
    this.button(bar, "+", "zoom in", ["+", "="], () => this.picture.zoomBy(1.5));
    this.button(bar, "fit", "the whole picture, as a double click", ["f"], () => this.picture.fit());
    this.button(bar, "window", "fill the window", ["w"], () => this.fill());
  }

  // The picture fills the window, or is put back.
  fill() {
    const full = this.picture.full = !this.picture.full;
    this.main.popover = full ? "manual" : null;
    if (full) this.main.showPopover();
    this.picture.draw();
  }

  // The filters changed: stay with the failure on show if it passes them, or go to the first.
  refill(top = false) {
    const current = top ? null : this.chosen[this.at];
    this.chosen = this.filters.choose(this.data.rows);
    this.source.filters = this.filters.text;
    this.filters.draw();
    clearTimeout(this.drawing);
    this.drawing = setTimeout(() => this.redraw());  // the list first: with 10,000 images the charts take a while
    this.list.marked.clear();
    this.list.fill(this.chosen);
    this.root.classList.toggle("seg-none", !this.chosen.length);
    if (this.chosen.length) { this.go(Math.max(0, this.chosen.indexOf(current))); return; }
    this.keep();
    this.previous.disabled = this.next.disabled = true;
    this.count.textContent = "None passes these filters. Widen them, or press Reset.";
  }

  // One picture is asked for at a time; of those asked for meanwhile, the last: a held key never queues up.
  async go(index) {
    if (!this.chosen.length) return;
    this.at = clamp(index, 0, this.chosen.length - 1);
    this.list.select(this.at);
    if (waits(this.asked)) return;
    this.keep();
    const row = this.chosen[this.at], asked = this.asked = performance.now();
    setTimeout(() => { if (asked === this.asked) this.problems.textContent = "No answer: run this cell again."; }, SLOW);
    const shown = await (this.ahead?.row === row ? this.ahead.shown : this.fetch(row.id));
    if (asked !== this.asked || !shown) return;  // it came so late that it was asked for again, or it never comes
    this.asked = 0;
    if (this.chosen[this.at] === row) this.show(row, shown); else this.go(this.at);
  }

  // An image with its layers decoded; null where no answer comes.
  async fetch(id, training) {
    try { return await this.picture.decoded(await this.source.show(id, training)); } catch { return null; }
  }

  // Go to an image wherever it is: in the list, left out by the filters, or a training image.
  async open(id, training = false) {
    const guest = this.editable && { id, verdict: "", note: "", training };
    const row = training ? guest : this.data.rows.find((other) => other.id === id);
    if (!row) return;  // a file does not hold every image
    const index = this.chosen.indexOf(row);
    if (index >= 0) { this.go(index); return; }
    this.keep();
    const shown = await this.fetch(id, training);
    if (!shown) return;
    this.picture.load(shown);
    this.row = row;
    this.count.textContent = training ? "a training image: step to go back" : "not in the list: step to go back";
    this.tell(row);
  }

  show(row, shown) {
    this.keep();
    this.picture.load(shown);
    const { at } = this, of = this.failed.size, all = of === this.chosen.length ? "failures" : "images";
    const by = at - (this.shownAt ?? -1), next = this.chosen[at + by];
    [this.row, this.shownAt] = [row, at];
    // One step further in the same direction, the next picture is expected.
    this.ahead = Math.abs(by) === 1 && next ? { row: next, shown: this.fetch(next.id) } : null;
    const rest = this.filters.text ? `chosen (${of} failures in all)` : all;
    this.count.textContent = `${at + 1} of ${this.chosen.length} ${rest}`;
    [this.previous.disabled, this.next.disabled] = [at === 0, at === this.chosen.length - 1];
    this.tell(row);
  }

  tell(row) {
    this.describe(row, this.picture.sample.facts);
    this.warn();
    this.text.value = row.note;
    this.say(row.time && `given ${new Date(row.time).toLocaleString()}`);
    this.look({});
    this.sequence(this.data.sequences[row.group], row);
    this.root.dataset.shown = row.id;
  }

  // What is wrong with this failure's files, and every verdict that could not be saved since.
  warn() {
    const unsaved = this.data.rows.filter((row) => row.error).map(({ id, error }) => `${id}: ${error}`);
    this.problems.textContent = [this.data.problem, ...(this.picture.sample?.problems ?? []), ...unsaved].join(" ");
  }

  look(changed) {
    Object.assign(this.picture, changed);
    const { view, sample: { present } } = this.picture;
    const press = (choice, on, known) => Object.assign(choice, { ariaPressed: String(on), disabled: !known });
    for (const [name, choice] of this.layers) press(choice, name === view, this.picture.has(name));
    this.layers.at(-1)[1].hidden = !this.data.before;
    press(this.region, this.picture.suspect, this.picture.has("suspect"));
    this.picture.draw();
    this.legend.replaceChildren();
    if (view === "confidence") swatch(this.legend, CONFIDENT, "confidence, 0 to 1");
    else if (view === "errors") { swatch(this.legend, WRONG, "wrong"); swatch(this.legend, "#000", "ignored"); }
    else for (const id of present) swatch(this.legend, this.colors[id] ?? "#000000", this.name(id));
  }

  name(id) {
    return id === undefined ? "unknown" : this.names[id] ?? (id === IGNORE ? "ignored" : `unknown id ${id}`);
  }

  read(at) {
    if (!at) { this.readout.textContent = "Point at the picture."; return; }
    const confidence = at.confidence === undefined ? "unknown" : (at.confidence / 255).toFixed(2);
    const classes = `ground truth ${this.name(at.truth)} · predicted ${this.name(at.prediction)}`;
    this.readout.textContent = `x ${at.x}, y ${at.y} · ${classes} · confidence ${confidence}`;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key, target } = event, typing = target === this.text || target.form;
    const leave = typing ? () => this.root.focus({ preventScroll: true }) : this.picture.full && (() => this.fill());
    const taken = typing || (target.type === "range" && key.startsWith("Arrow"));
    const answer = key === "Escape" ? leave : !taken && this.keys[key];
    if (answer) { answer(); event.preventDefault(); }
    // VS Code would take other keys for its own: a mistyped x cuts the cell, d d deletes it.
    if (answer || typing || key.length === 1 || ["Delete", "Backspace"].includes(key)) event.stopPropagation();
  }
}

export function openReport() {
  const [host, data] = ["browser", "data"].map((id) => document.getElementById(id));
  if (host) new Browser(new Embedded(JSON.parse(data.textContent)), host);
}

export default {
  render({ model, el }) {
    const browser = new Browser(new Kernel(model), make(el, "div"));
    return () => browser.close();
  },
};
