// The browser around filters, list and picture: its controls, what is known about the failure, and the verdict on it.

const LAYERS = [["all", "all four", "a"], ["image", "image", "i"], ["truth", "ground truth", "t"],
  ["prediction", "prediction", "p"], ["errors", "errors", "e"], ["confidence", "confidence", "c"]];
const HELP = "Keys, once you have clicked in here: ← → or j k: step · a i t p e c: layer · s: suspect region · "
  + "[ ]: opacity · + − f, wheel: zoom · drag: move";
const LOST = ["#9fd0f0", "#0b3c6f", "#a6405f", "#e69f00", "#999999"];  // by kind of error, as the plots draw them
const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };
const CONFIDENT = `linear-gradient(90deg, ${CIVIDIS.map((color) => `rgb(${color})`).join()})`;
const LOST_KERNEL = "not saved: run this cell again", SLOW = 5000;  // milliseconds until an answer counts as lost
const WRONG = "#ff7a00", HATCHED = "repeating-linear-gradient(135deg, #606060 0 2px, #000 2px 6px)";

function swatch(parent, background, text) {
  const key = make(parent, "span", "seg-key");
  make(key, "i").style.background = background;
  make(key, "span", "", text);
}

class Browser {
  constructor(source, root) {
    Object.assign(this, { source, root, at: 0, row: null, asked: 0, typed: false, ahead: null, keys: {} });
    Object.assign(root, { className: "seg-browser", tabIndex: 0 });
    root.dataset.lmSuppressShortcuts = "true";  // JupyterLab would take j, k and the arrows for itself
    // Also when a hidden notebook comes back.
    this.observer = new ResizeObserver(() => { if (this.row) { this.list.select(this.at); this.picture.draw(); } });
    source.open().then((data) => this.build(data));
  }

  build(data) {
    const { colors, names, rows } = data;
    Object.assign(this, { data, colors, names, chosen: rows, editable: !this.source.readOnly });
    this.unsaved = new Unsaved(`seglib ${data.folder}`);
    this.filters = new Filters(this.root, data, () => this.refill());
    const page = make(this.root, "div", "seg-page");
    const [left, main, verdict] = ["seg-left", "seg-main", "seg-verdicts"].map((name) => make(page, "div", name));
    this.facts = make(page, "div", "seg-facts");
    this.count = make(left, "div", "seg-count");
    this.thumbs = new Thumbs(this.source, this.root);
    this.list = new List(left, this.thumbs, (index) => { this.root.focus({ preventScroll: true }); this.go(index); });
    const steps = make(left, "div", "seg-bar");
    const step = (by) => () => this.go(this.at + by);
    this.previous = this.button(steps, "‹ Previous", "the failure before", ["ArrowLeft", "k"], step(-1));
    this.next = this.button(steps, "Next ›", "the failure after", ["ArrowRight", "j"], step(1));
    for (const [key, by] of Object.entries(STEPS)) this.keys[key] = step(by);
    this.controls(make(main, "div", "seg-bar"));
    this.picture = new Picture(make(main, "div", "seg-picture"), colors, {
      read: (at) => this.read(at),
      focused: () => this.root.contains(this.root.getRootNode().activeElement),
      sharpen: async (sample) => this.picture.sharper(sample, await this.source.show(sample.id, true)),
    });
    [this.readout, this.legend, this.problems, this.near] =
      ["seg-readout", "seg-legend", "seg-problem", "seg-near"].map((name) => make(main, "div", name));
    this.problems.role = "alert";
    this.judging(verdict);
    make(page, "div", "seg-help", HELP + (this.editable ? " · 1 2 3 4: verdict · n: note, Escape: back" : ""));
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.observer.observe(this.filters.bar);  // its size does not depend on the picture's
    this.read(null);
    this.refill();
    this.resend();
  }

  close() { this.keep(); this.source.close?.(); this.observer.disconnect(); }

  // A button, and the keys that press it.
  button(host, text, title, keys, answer) {
    const element = button(host, text, `${title} (${keys.join(", ")})`, answer);
    for (const key of keys) this.keys[key] = () => element.click();
    return element;
  }

  controls(bar) {
    this.layers = LAYERS.map(([view, text, key]) =>
      [view, this.button(bar, text, "layer", [key], () => this.look({ view }))]);
    const outline = () => this.look({ suspect: !this.picture.suspect });
    this.region = this.button(bar, "suspect", "outline the suspect region", ["s"], outline);
    this.opacity = make(make(bar, "label", "seg-opacity", "opacity"), "input");
    const blend = (opacity) => this.look({ opacity: clamp(opacity, 0, 1) });
    Object.assign(this.opacity, { type: "range", min: 0, max: 100, oninput: () => blend(this.opacity.value / 100) });
    const more = (by) => () => blend(this.picture.opacity + by);
    Object.assign(this.keys, { "[": more(-0.1), "]": more(0.1) });
    const zoom = make(bar, "span", "seg-zoom");
    this.button(zoom, "−", "zoom out", ["-"], () => this.picture.zoomBy(1 / 1.5));
    this.button(zoom, "+", "zoom in", ["+", "="], () => this.picture.zoomBy(1.5));
    this.button(zoom, "fit", "the whole picture, as a double click", ["f"], () => this.picture.fit());
  }

  judging(host) {
    make(host, "div", "seg-label", this.editable ? "your verdict" : "verdict");
    this.choices = (this.editable ? this.data.verdicts : []).map((name, k) =>
      [name, this.button(host, `${k + 1} ${name}`, "press again to remove it", [k + 1], () => this.judge(name))]);
    const settings = { rows: 2, placeholder: "a note (n), saved as you type", ariaLabel: "note" };
    this.text = Object.assign(make(host, "textarea"), settings, { hidden: !this.editable });
    this.text.oninput = () => {
      clearTimeout(this.timer);
      this.typed = true;
      this.timer = setTimeout(() => this.keep(), 500);
    };
    this.keys.n = () => this.text.focus();
    this.status = Object.assign(make(host, "div", "seg-status"), { ariaLive: "polite" });
  }

  // The filters changed: stay with the failure on show if it passes them.
  refill() {
    const current = this.chosen[this.at], of = this.data.rows.length;
    this.chosen = this.filters.choose(this.data.rows);
    this.list.fill(this.chosen);
    this.root.classList.toggle("seg-none", !this.chosen.length);
    if (this.chosen.length) { this.go(Math.max(0, this.chosen.indexOf(current))); return; }
    this.keep();
    this.previous.disabled = this.next.disabled = true;
    this.count.textContent = `0 of ${of} failures: none passes these filters. Widen them, or press Reset.`;
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
    const shown = await (this.ahead?.row === row ? this.ahead.shown : this.source.show(row.id).catch(() => null));
    if (asked !== this.asked || !shown) return;  // it came so late that it was asked for again, or it never comes
    this.asked = 0;
    if (this.chosen[this.at] !== row) { this.go(this.at); return; }
    if (await this.picture.load({ ...shown, id: row.id })) this.show(row);
  }

  show(row) {
    if (this.chosen[this.at] !== row) return;  // the filters changed meanwhile
    this.keep();
    const { at } = this, by = at - (this.shownAt ?? -1), next = this.chosen[at + by], of = this.data.rows.length;
    [this.row, this.shownAt] = [row, at];
    // One step further in the same direction, the next picture is expected.
    this.ahead = Math.abs(by) === 1 && next ? { row: next, shown: this.source.show(next.id).catch(() => null) } : null;
    const rest = this.chosen.length === of ? "failures" : `chosen (${of} failures in all)`;
    this.count.textContent = `${at + 1} of ${this.chosen.length} ${rest}`;
    [this.previous.disabled, this.next.disabled] = [at === 0, at === this.chosen.length - 1];
    this.describe(row, this.picture.sample.facts);
    this.warn();
    this.text.value = row.note;
    this.say(row.time && `given ${new Date(row.time).toLocaleString()}`);
    this.look({});
    this.root.dataset.shown = row.id;
  }

  // Save a note that was typed but not yet sent: always before another failure is shown.
  keep() {
    clearTimeout(this.timer);
    if (this.typed && this.row) this.save();
    this.typed = false;
  }

  judge(name) {
    if (!this.row) return;
    this.row.verdict = this.row.verdict === name ? "" : name;
    this.save();
  }

  save() {
    this.typed = false;
    this.row.note = this.text.value;
    this.send(this.row);
  }

  // Until the last of several changes is answered, what is on the buttons is newer than the answers. What no kernel
  // answers is released and kept for the next one; an answer that comes late counts all the same.
  async send(row) {
    const { verdict, note } = row, saving = row.saving = {};
    this.unsaved.put(row.id, [verdict, note]);
    if (this.row === row) this.say("saving …");
    const lost = () => {
      if (row.saving === saving) this.saved(row, { verdict: row.given ?? "", time: row.time, error: LOST_KERNEL });
    };
    setTimeout(lost, SLOW);
    const answer = await this.source.judge(row.id, verdict, note).catch(lost);
    if (row.saving !== saving || !answer) return;
    row.saving = null;
    this.unsaved.put(row.id);
    this.saved(row, answer);
    if (!answer.error) this.resend();
  }

  saved(row, { verdict, time, error }) {
    Object.assign(row, { verdict, time, error });
    if (error !== LOST_KERNEL) row.given = verdict;
    this.list.changed(row);
    this.warn();
    if (this.row === row) this.say(error || (time ? "saved" : "verdict removed"), Boolean(error));
  }

  // Send what an earlier kernel did not save, now that one answers.
  resend() {
    for (const row of this.data.rows) {
      row.given ??= row.verdict;
      const kept = this.unsaved.kept[row.id];
      if (!kept || row.saving) continue;
      [row.verdict, row.note] = kept;
      this.send(row);
    }
  }

  say(text, problem = false) {
    const { verdict, note } = this.row, given = this.editable ? [] : [verdict || this.data.none, note];
    this.status.textContent = [...given, text].filter(Boolean).join("\n");
    this.status.classList.toggle("seg-problem", problem);
    for (const [name, choice] of this.choices) choice.ariaPressed = String(name === verdict);
  }

  // What is wrong with this failure's files, and every verdict that could not be saved since.
  warn() {
    const unsaved = this.data.rows.filter((row) => row.error).map(({ id, error }) => `${id}: ${error}`);
    this.problems.textContent = [this.data.problem, ...(this.picture.sample?.problems ?? []), ...unsaved].join(" ");
  }

  look(changed) {
    Object.assign(this.picture, changed);
    this.opacity.value = Math.round(100 * this.picture.opacity);
    const { view, present } = this.picture;
    const press = (choice, on, known) => Object.assign(choice, { ariaPressed: String(on), disabled: !known });
    for (const [name, choice] of this.layers) press(choice, name === view, this.picture.has(name));
    press(this.region, this.picture.suspect, this.picture.has("suspect"));
    this.picture.draw();
    this.legend.replaceChildren();
    if (view === "confidence") swatch(this.legend, CONFIDENT, "confidence, 0 to 1");
    else if (view === "errors") { swatch(this.legend, WRONG, "wrong"); swatch(this.legend, HATCHED, "ignored"); }
    else for (const id of present) swatch(this.legend, this.colors[id] ?? "#000000", this.name(id));
  }

  name(id) {
    return id === undefined ? "unknown" : this.names[id] ?? (id === IGNORE ? "ignored" : `unknown id ${id}`);
  }

  read(at) {
    const confidence = at?.confidence === undefined ? "unknown" : (at.confidence / 255).toFixed(2);
    const said = at && `ground truth ${this.name(at.truth)} · predicted ${this.name(at.prediction)}`;
    this.readout.textContent = at ? `x ${at.x}, y ${at.y} · ${said} · confidence ${confidence}` : "Point at the picture.";
  }

  describe({ id }, { cause, sureness, evidence, suggestion, lost, rows, ious, nearest }) {
    const host = this.facts;
    host.replaceChildren();
    make(host, "h4", "", id).title = id;
    const head = make(host, "div", "seg-cause");
    make(head, "b", "", cause);
    make(head, "span", "seg-muted", sureness);
    make(host, "p", "", evidence);
    make(host, "p", "", suggestion && `→ ${suggestion}`);
    if (lost.length) make(host, "div", "seg-label", "IoU lost to (the whole bar is 1)");
    const bar = make(host, "div", "seg-stack"), keys = make(host, "div", "seg-keys");
    lost.forEach(([name, share], k) => {
      Object.assign(make(bar, "i").style, { background: LOST[k], flexGrow: String(Math.max(0, share)) });
      swatch(keys, LOST[k], `${name.replace("_", " ")} ${share.toFixed(2)}`);
    });
    const table = make(host, "table");
    for (const [name, value] of rows) {
      const row = make(table, "tr");
      make(row, "th", "", name);
      make(row, "td", value === "unknown" ? "seg-muted" : "", value);
    }
    if (ious.length) make(host, "div", "seg-label", "IoU of the classes here");
    const scores = make(host, "div", "seg-keys");
    for (const [c, iou] of ious) swatch(scores, this.colors[c], `${this.names[c]} ${iou.toFixed(2)}`);
    this.near.replaceChildren();
    const known = nearest?.length ? "" : nearest ? ": none" : ": unknown";
    make(this.near, "div", "seg-label", `nearest training images${known}`);
    for (const other of nearest ?? []) {
      const figure = Object.assign(make(this.near, "figure"), { title: other });
      this.thumbs.put(make(figure, "img"), "nearest", other);
      make(figure, "figcaption", "", other);
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key, target } = event, typing = target === this.text || target.form;
    let answer = typing || (target === this.opacity && key.startsWith("Arrow")) ? null : this.keys[key];
    if (typing && key === "Escape") answer = () => this.root.focus({ preventScroll: true });
    if (answer) { answer(); event.preventDefault(); }
    // VS Code would take other keys for its own: a mistyped x cuts the cell, d d deletes it.
    if (answer || typing || key.length === 1 || ["Delete", "Backspace"].includes(key)) event.stopPropagation();
  }
}

export function openReport() {
  const host = document.getElementById("browser");
  if (!host) return;
  new Browser(new Embedded(JSON.parse(document.getElementById("data").textContent)), host);
}

export default {
  render({ model, el }) {
    const browser = new Browser(new Kernel(model), make(el, "div"));
    return () => browser.close();
  },
};
