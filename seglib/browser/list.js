// The list of failures with its small pictures. Every text comes from file and class names that nobody vouches for:
// here and everywhere it is set as textContent, never as HTML.

const ROW = 62;  // a row's height in pixels

function make(parent, tag, name = "", text = "", settings = {}) {
  const element = parent.appendChild(document.createElement(tag));
  if (name) element.className = name;
  element.textContent = text;
  return Object.assign(element, settings);
}

function button(parent, text, title, onclick, settings = {}) {
  return make(parent, "button", "seg-button", text, { type: "button", title, onclick, ...settings });
}

// An input, or a menu, beside its name.
function field(parent, kind, name, settings = {}, tag = "input") {
  return make(make(parent, "label", kind, name), tag, "", "", { ariaLabel: name, autocomplete: "off", ...settings });
}

// Put options, each a value or [value, text], into a menu.
function offer(menu, options) {
  menu.replaceChildren();
  for (const [value, text = value] of options.map((one) => [one].flat())) make(menu, "option", "", text, { value });
}

// Whether an answer is still to be waited for: not forever, because an interrupted kernel never gives it.
const waits = (asked) => asked > 0 && performance.now() - asked < SLOW;

// Small pictures for the images marked as wanted, one at a time so that a step in between need not wait.
class Thumbs {
  constructor(source, root) { Object.assign(this, { source, root, kept: new Map(), asked: 0 }); }

  put(parent, id, training) {
    make(parent, "img", "seg-wanted", "", { alt: "", wanted: [id, training] });
    if (!waits(this.asked)) this.next();
  }

  async next() {
    for (let image; (image = this.root.querySelector(".seg-wanted"));) {  // not those scrolled out of sight
      const key = JSON.stringify(image.wanted);
      this.asked = performance.now();
      if (!this.kept.has(key)) this.kept.set(key, await this.source.thumb(...image.wanted).catch(() => ""));
      const address = this.kept.get(key);
      Object.assign(image, address ? { src: address, className: "" } : { className: "seg-missing" });
    }
    this.asked = 0;
  }
}

// A list of any length: only the rows in sight exist.
class List {
  constructor(host, thumbs, pick) {
    Object.assign(this, { thumbs, pick, rows: [], index: 0, elements: new Map(), marked: new Set() });
    const onscroll = () => requestAnimationFrame(() => this.draw());
    this.box = make(host, "div", "seg-list", "", { role: "listbox", onscroll });
    this.inner = make(this.box, "div", "seg-rows");
  }

  fill(rows) {
    this.rows = rows;
    this.inner.style.height = `${rows.length * ROW}px`;
    this.draw();
  }

  changed(row) {
    this.elements.get(row)?.remove();
    this.elements.delete(row);
    this.draw();
  }

  select(index) {
    this.index = index;
    const top = index * ROW, { scrollTop, clientHeight } = this.box;
    this.box.scrollTop = clamp(scrollTop, top + ROW - clientHeight, top);
    this.draw();
  }

  draw() {
    const { scrollTop, clientHeight } = this.box, first = Math.max(0, Math.floor(scrollTop / ROW) - 3);
    const rows = this.rows.slice(first, Math.ceil((scrollTop + clientHeight) / ROW) + 3);
    const kept = new Map(rows.map((row) => [row, this.elements.get(row) ?? this.element(row)]));
    for (const [row, element] of this.elements) if (!kept.has(row)) element.remove();
    this.elements = kept;
    [...kept].forEach(([row, element], k) => {
      element.style.top = `${(first + k) * ROW}px`;
      element.ariaSelected = String(first + k === this.index);
      element.classList.toggle("seg-marked", this.marked.has(row));
      if (this.inner.children[k] !== element) this.inner.insertBefore(element, this.inner.children[k]);
    });
  }

  element(row) {
    const { id, miou, cause, top_confusion, worst_class, verdict, before, change } = row;
    const words = [cause, top_confusion || worst_class].filter(Boolean).join(" · ");
    const onclick = (event) => this.pick(this.rows.indexOf(row), event.shiftKey);
    const element = make(this.inner, "div", "seg-row", "", { title: `${id}\n${words}`, role: "option", onclick });
    this.thumbs.put(element, id, false);
    const text = make(element, "div", "seg-words"), head = make(text, "div", "seg-head");
    const iou = (value) => value?.toFixed(3) ?? "–";
    make(head, "b", "", before === undefined ? iou(miou) : `${iou(before)} → ${iou(miou)}`);
    if (change) make(head, "span", "seg-muted", change);
    make(head, "span", "seg-given", verdict && `✓ ${verdict}`);
    make(text, "div", "seg-name", id);
    make(text, "div", "seg-why", words);
    return element;
  }
}
