// The browser around list and picture: its controls, what is known about the failure, and the verdict on it.

const LAYERS = [["all", "all four", "a"], ["image", "image", "i"], ["truth", "truth", "t"],
  ["prediction", "prediction", "p"], ["errors", "errors", "e"], ["confidence", "confidence", "c"]];
const HELP = "Keys, once you have clicked in here: ← → or j k: step · 1 2 3 4: verdict · n: note, Escape: back · "
  + "a i t p e c: layer · s: suspect region · [ ]: opacity · + − f, wheel: zoom · drag: move";
// As seglib.plots.losses draws them, but for its dots.
const LOST = { boundary: "#9fd0f0", missed: "#0b3c6f", invented: "#a6405f", swapped: "#e69f00", specks: "#999999" };
const STEPS = { ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1, PageDown: 8, PageUp: -8,
  Home: -Infinity, End: Infinity };
const RAMP = "linear-gradient(90deg, #00224e, #414d6b, #7c7b78, #bcaf6f, #fee838)";  // cividis
const WRONG = "#ff7a00", HATCHED = "repeating-linear-gradient(135deg, #606060 0 2px, #000 2px 6px)";
const SAVING = "saving …";

function swatch(parent, color, text) {
  const key = make(parent, "span", "seg-key");
  make(key, "i").style.background = color;
  make(key, "span", "", text);
}

class Browser {
  constructor(model, root) {
    const colors = model.get("colors").map((color) => (/^#[0-9a-f]{6}$/.test(color) ? color : "#000000"));
    Object.assign(this, { model, root, names: model.get("names"), colors, at: 0, sample: null });
    Object.assign(this, { wanted: null, asked: 0, typed: false, pending: 0, unsaved: new Map(), token: Math.random() });
    root.classList.add("seg-browser");
    root.tabIndex = 0;
    root.dataset.lmSuppressShortcuts = "true";  // JupyterLab would take j, k and the arrows for itself
    const page = make(root, "div", "seg-page");
    const [left, main] = ["seg-left", "seg-main"].map((name) => make(page, "div", name));
    this.count = make(left, "div", "seg-count");
    this.thumbs = new Thumbs((message) => this.ask(message));
    const pick = (index) => { root.focus({ preventScroll: true }); this.go(index); };
    this.list = new List(left, this.thumbs, (message) => this.ask(message), pick);
    const steps = make(left, "div", "seg-bar");
    this.previous = button(steps, "‹ Previous", "the failure before (←, k)", () => this.go(this.at - 1));
    this.next = button(steps, "Next ›", "the failure after (→, j)", () => this.go(this.at + 1));
    this.controls(main);
    const focused = () => root.contains(root.getRootNode().activeElement);
    const sharpen = (id) => this.ask({ type: "sharp", id });
    this.picture = new Picture(make(main, "div", "seg-picture"), colors, { read: (at) => this.read(at), focused, sharpen });
    this.readout = make(main, "div", "seg-readout");
    this.legend = make(main, "div", "seg-legend");
    this.problems = make(main, "div", "seg-problem");
    this.problems.setAttribute("role", "alert");
    this.near = make(main, "div", "seg-near");
    this.judging(page);
    this.facts = make(page, "div", "seg-facts");
    make(page, "div", "seg-help", HELP);
    root.addEventListener("keydown", (event) => this.key(event));
    this.observer = new ResizeObserver(([{ contentRect: { width } }]) => {  // also when a hidden notebook comes back
      if (width !== this.width && width) { this.list.select(this.at); this.picture.draw(); }
      this.width = width;
    });
    this.observer.observe(root);
    this.answer = (message, buffers) => this.hear(message, buffers);
    model.on("msg:custom", this.answer);
    this.read(null);
    this.ask({ type: "ready" });
  }

  close() { this.keep(); this.model.off("msg:custom", this.answer); this.observer.disconnect(); }

  ask(message) { this.model.send(message); }

  controls(main) {
    const bar = make(main, "div", "seg-bar");
    this.layers = LAYERS.map(([name, text, key]) =>
      [name, button(bar, text, `layer: ${text} (${key})`, () => this.look({ view: name }))]);
    const outline = () => this.look({ suspect: !this.picture.suspect });
    this.region = button(bar, "suspect", "outline the suspect region (s)", outline);
    const label = make(bar, "label", "seg-opacity", "opacity");
    this.opacity = make(label, "input");
    const blend = () => this.look({ opacity: this.opacity.value / 100 });
    Object.assign(this.opacity, { type: "range", min: 0, max: 100, value: 60, oninput: blend });
    const zoom = make(bar, "span", "seg-zoom");
    button(zoom, "−", "zoom out (-)", () => this.picture.zoomBy(1 / 1.5));
    button(zoom, "+", "zoom in (+)", () => this.picture.zoomBy(1.5));
    button(zoom, "fit", "the whole picture (f, or a double click)", () => this.picture.fit());
  }

  judging(page) {
    this.verdicts = make(page, "div", "seg-verdicts");
    make(this.verdicts, "div", "seg-label", "your verdict");
    this.choices = this.model.get("verdicts").map((name, k) =>
      [name, button(this.verdicts, `${k + 1} ${name}`, `press again to remove it (${k + 1})`, () => this.judge(name))]);
    this.text = make(this.verdicts, "textarea");
    Object.assign(this.text, { rows: 2, placeholder: "a note (n), saved as you type", ariaLabel: "note" });
    this.text.oninput = () => {
      clearTimeout(this.timer);
      this.typed = true;
      this.timer = setTimeout(() => this.keep(), 500);
    };
    this.text.onchange = () => this.keep();
    this.status = make(this.verdicts, "div", "seg-status");
    this.status.setAttribute("aria-live", "polite");
  }

  // One picture is asked for at a time; of those asked for meanwhile, the last: a held key never queues up.
  go(index) {
    if (!this.list.total) return;
    this.at = Math.min(this.list.total - 1, Math.max(0, index));
    this.list.select(this.at);
    if (waits(this.asked)) { this.wanted = this.at; return; }
    this.keep();
    [this.asked, this.wanted] = [performance.now(), null];
    this.ask({ type: "go", generation: this.list.generation, index: this.at });
  }

  // Save a note that was typed but not yet sent: always before another failure is shown.
  keep() {
    clearTimeout(this.timer);
    if (this.typed && this.sample) this.save();
    this.typed = false;
  }

  judge(name) {
    if (!this.sample) return;
    this.sample.verdict = this.sample.verdict === name ? "" : name;
    this.save();
  }

  save() {
    const { id, verdict } = this.sample;
    this.typed = false;
    this.say(SAVING);
    this.press();
    this.pending += 1;
    this.ask({ type: "judge", id, verdict, note: this.text.value, from: this.token });
    setTimeout(() => {
      if (this.status.textContent === SAVING) this.say("not saved yet: the kernel does not answer", true);
    }, 5000);
  }

  say(text, problem = false) {
    this.status.textContent = text;
    this.status.classList.toggle("seg-problem", problem);
  }

  hear(message, buffers) {
    if (message.type === "rows") this.list.take(message);
    else if (message.type === "thumbs") this.thumbs.made(message, buffers);
    else if (message.type === "saved") this.saved(message);
    else if (message.type === "sharp") this.picture.sharper(message, buffers).then(() => this.look({}));
    else if (message.type === "list") {
      [this.asked, this.wanted, this.of] = [0, null, message.of];
      this.list.reset(message);
      if (!message.total) this.empty();
    } else this.show(message, buffers).catch((error) => { this.problems.textContent = `cannot be shown: ${error}`; });
  }

  empty() {
    this.keep();
    this.sample = null;
    this.root.classList.add("seg-none");
    this.previous.disabled = this.next.disabled = true;
    this.count.textContent = `0 of ${this.of} failures: none passes these filters. Widen them, or press Reset.`;
  }

  async show(message, buffers) {
    this.asked = 0;
    if (message.generation !== this.list.generation) return;
    if (this.wanted !== null) { this.go(this.wanted); return; }
    if (!(await this.picture.load(message, buffers))) return;
    this.keep();
    this.root.classList.remove("seg-none");
    [this.sample, this.at] = [message, message.index];
    const total = this.list.total;
    const rest = total === this.of ? "failures" : `chosen (${this.of} failures in all)`;
    this.count.textContent = `${this.at + 1} of ${total} ${rest}`;
    [this.previous.disabled, this.next.disabled] = [this.at === 0, this.at === total - 1];
    this.list.select(this.at);
    this.describe(message);
    this.warn();
    this.text.value = message.note;
    this.say(message.time && `given ${message.time}`);
    this.press();
    this.look({});
    this.root.dataset.shown = message.id;
  }

  // Until the last of several changes is answered, what is on the buttons is newer than the answers.
  saved({ id, verdict, time, error, from }) {
    if (from === this.token) this.pending -= 1;
    this.list.judged(id, verdict);
    if (error) this.unsaved.set(id, error); else this.unsaved.delete(id);
    this.warn();
    if (this.pending > 0 || this.sample?.id !== id) return;
    this.sample.verdict = verdict;
    this.say(error || (time ? `saved ${time}` : "verdict removed"), Boolean(error));
    this.press();
  }

  // What is wrong with this failure's files, and every verdict that could not be saved, wherever one has stepped since.
  warn() {
    const unsaved = [...this.unsaved].map(([id, error]) => `${id}: ${error}`);
    this.problems.textContent = [...(this.sample?.problems ?? []), ...unsaved].join(" ");
  }

  press() {
    const given = this.sample?.verdict;
    for (const [name, choice] of this.choices) choice.setAttribute("aria-pressed", String(name === given));
  }

  look(changed) {
    Object.assign(this.picture, changed);
    this.opacity.value = Math.round(100 * this.picture.opacity);
    for (const [name, choice] of this.layers) {
      choice.setAttribute("aria-pressed", String(name === this.picture.view));
      choice.disabled = !this.picture.sample || !this.picture.has(name);
    }
    this.region.setAttribute("aria-pressed", String(this.picture.suspect));
    this.region.disabled = !this.sample || !(this.picture.has("suspect") || this.sample.box);
    if (this.sample) { this.picture.draw(); this.explain(); }
  }

  explain() {
    this.legend.replaceChildren();
    const { view, present } = this.picture;
    if (view === "confidence") swatch(this.legend, RAMP, "confidence, 0 to 1");
    else if (view === "errors") {
      swatch(this.legend, WRONG, "wrong");
      if (present.includes(255)) swatch(this.legend, HATCHED, "not scored");
    } else for (const id of present) swatch(this.legend, this.colors[id] ?? "#000000", this.name(id));
  }

  name(id) { return id === undefined ? "unknown" : this.names[id] ?? (id === 255 ? "not scored" : `unknown id ${id}`); }

  read(at) {
    const confidence = at?.confidence === undefined ? "unknown" : (at.confidence / 255).toFixed(2);
    const classes = () => `truth ${this.name(at.truth)} · predicted ${this.name(at.prediction)}`;
    this.readout.textContent = at ? `x ${at.x}, y ${at.y} · ${classes()} · confidence ${confidence}`
      : "Point at the picture to read its values.";
  }

  describe({ id, facts, nearest }) {
    const facing = this.facts;
    facing.replaceChildren();
    make(facing, "h4", "", id).title = id;
    const cause = make(facing, "div", "seg-cause");
    make(cause, "b", "", facts.cause);
    make(cause, "span", "seg-muted", facts.sureness);
    if (facts.evidence) make(facing, "p", "", facts.evidence);
    if (facts.suggestion) make(facing, "p", "seg-suggestion", `→ ${facts.suggestion}`);
    if (facts.lost.length) {
      make(facing, "div", "seg-label", "IoU lost to (the whole bar is 1)");
      const bar = make(facing, "div", "seg-stack"), keys = make(facing, "div", "seg-keys");
      for (const [name, share] of facts.lost) {
        Object.assign(make(bar, "i").style, { background: LOST[name], flexGrow: String(Math.max(0, share)) });
        swatch(keys, LOST[name], `${name} ${share.toFixed(2)}`);
      }
    }
    const table = make(facing, "table");
    for (const [name, value] of facts.rows) {
      const row = make(table, "tr");
      make(row, "th", "", name);
      make(row, "td", value === "unknown" ? "seg-muted" : "", value);
    }
    if (facts.ious.length) make(facing, "div", "seg-label", "IoU of the classes here");
    const ious = make(facing, "table", "seg-ious");
    for (const [c, iou] of facts.ious) {
      const row = make(ious, "tr");
      make(row, "th", "", this.names[c]);
      const bar = make(make(make(row, "td"), "div"), "i");
      Object.assign(bar.style, { width: `${100 * iou}%`, background: this.colors[c] });
      make(row, "td", "", iou.toFixed(2));
    }
    this.near.replaceChildren();
    const none = nearest ? ": none" : ": unknown";
    make(this.near, "div", "seg-label", `nearest training images${nearest?.length ? "" : none}`);
    for (const other of nearest ?? []) {
      const figure = make(this.near, "figure"), image = make(figure, "img");
      [image.alt, figure.title] = ["", other];
      make(figure, "figcaption", "", other);
      this.thumbs.put(image, "nearest", other);
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === this.text) {
      if (event.key === "Escape") this.root.focus({ preventScroll: true });
      event.stopPropagation();
      return;
    }
    const by = STEPS[event.key];
    const layer = LAYERS.find(([, , key]) => key === event.key), choice = this.choices[Number(event.key) - 1];
    if (by && !(event.target === this.opacity && event.key.startsWith("Arrow"))) this.go(this.at + by);
    else if (layer) { if (this.picture.sample && this.picture.has(layer[0])) this.look({ view: layer[0] }); }
    else if (choice) this.judge(choice[0]);
    else if (event.key === "s") this.look({ suspect: !this.picture.suspect });
    else if (event.key === "[") this.look({ opacity: Math.max(0, this.picture.opacity - 0.1) });
    else if (event.key === "]") this.look({ opacity: Math.min(1, this.picture.opacity + 0.1) });
    else if (event.key === "+" || event.key === "=") this.picture.zoomBy(1.5);
    else if (event.key === "-") this.picture.zoomBy(1 / 1.5);
    else if (event.key === "f") this.picture.fit();
    else if (event.key === "n") this.text.focus();
    else {  // VS Code would take it for its own: a mistyped x cuts the cell, d d deletes it
      if (event.key.length === 1 || ["Delete", "Backspace"].includes(event.key)) event.stopPropagation();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}

export default {
  render({ model, el }) {
    const browser = new Browser(model, make(el, "div"));
    return () => browser.close();
  },
};
