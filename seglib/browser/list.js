// The list of failures with its small pictures. Every text comes from file and class names that nobody vouches for:
// here and everywhere it is set as textContent, never as HTML.

const ROW = 62, PAGE = 30, THUMBS = 400;  // a row's height in pixels; rows asked for at once; small pictures kept

function make(parent, tag, name = "", text = "") {
  const element = parent.appendChild(document.createElement(tag));
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

function button(parent, text, title, answer) {
  const element = make(parent, "button", "seg-button", text);
  Object.assign(element, { type: "button", title, onclick: answer });
  return element;
}

// Whether an answer is still to be waited for: not forever, because an interrupted kernel never gives it.
const waits = (asked) => asked > 0 && performance.now() - asked < 5000;

// Small pictures by folder and id, asked for a few at a time so that a step in between need not wait; the oldest go.
class Thumbs {
  constructor(ask) { Object.assign(this, { ask, kept: new Map(), wanted: new Map(), asked: 0 }); }

  put(image, kind, id) {
    const key = JSON.stringify([kind, id]);
    if (this.kept.has(key)) this.draw(image, this.kept.get(key));
    else { this.wanted.set(key, [...(this.wanted.get(key) ?? []), image]); this.next(); }
  }

  draw(image, blob) {
    if (!blob) { image.classList.add("seg-missing"); return; }
    image.onload = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
  }

  next() {
    const gone = (image) => !image.closest(".seg-browser");  // its row was scrolled out of sight
    for (const [key, images] of this.wanted) if (images.every(gone)) this.wanted.delete(key);
    if (waits(this.asked) || !this.wanted.size) return;
    this.asked = performance.now();
    this.ask({ type: "thumbs", wanted: [...this.wanted.keys()].slice(0, PAGE).map((key) => JSON.parse(key)) });
  }

  made(answer, buffers) {
    this.asked = 0;
    answer.made.forEach((name, k) => {
      const key = JSON.stringify(name), bytes = buffers[k];
      const blob = bytes.byteLength ? new Blob([bytes], { type: "image/jpeg" }) : null;
      this.kept.set(key, blob);
      (this.wanted.get(key) ?? []).forEach((image) => this.draw(image, blob));
      this.wanted.delete(key);
    });
    for (const key of this.kept.keys()) { if (this.kept.size <= THUMBS) break; this.kept.delete(key); }
    this.next();
  }
}

// A list of any length: only the rows in sight exist.
class List {
  constructor(host, thumbs, ask, pick) {
    Object.assign(this, { thumbs, ask, pick, generation: -1, total: 0, index: 0 });
    Object.assign(this, { rows: new Map(), elements: new Map(), asked: new Set() });
    this.box = make(host, "div", "seg-list");
    this.box.setAttribute("role", "listbox");
    this.inner = make(this.box, "div", "seg-rows");
    this.box.onscroll = () => requestAnimationFrame(() => this.draw());
  }

  reset({ generation, total }) {
    Object.assign(this, { generation, total });
    for (const kept of [this.rows, this.elements, this.asked]) kept.clear();
    this.inner.replaceChildren();
    this.inner.style.height = `${total * ROW}px`;
    this.draw();
  }

  take({ generation, start, rows }) {
    if (generation !== this.generation) return;
    this.asked.delete(start);
    rows.forEach((row, k) => this.rows.set(start + k, row));
    this.draw();
  }

  judged(id, verdict) {
    for (const [index, row] of this.rows) {
      if (row.id !== id) continue;
      row.verdict = verdict;
      this.drop(index);
    }
    this.draw();
  }

  select(index) {
    this.elements.get(this.index)?.setAttribute("aria-selected", "false");
    this.index = index;
    this.elements.get(index)?.setAttribute("aria-selected", "true");
    const top = index * ROW, { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.box.scrollTop = top + ROW - clientHeight;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 3);
    const last = Math.min(this.total, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + 3);
    for (const index of this.elements.keys()) if (index < first || index >= last) this.drop(index);
    if (this.rows.size > 20 * PAGE) {
      for (const index of this.rows.keys()) if (Math.abs(index - first) > 5 * PAGE) this.rows.delete(index);
    }
    for (let index = first; index < last; index++) {
      const start = index - (index % PAGE), row = this.rows.get(index);
      if (row && !this.elements.has(index)) this.elements.set(index, this.row(index, row));
      else if (!row && !this.asked.has(start)) {
        this.asked.add(start);
        this.ask({ type: "rows", generation: this.generation, start, stop: Math.min(this.total, start + PAGE) });
      }
    }
  }

  drop(index) {
    this.elements.get(index)?.remove();
    this.elements.delete(index);
  }

  row(index, { id, score, words, verdict }) {
    const row = make(this.inner, "div", "seg-row");
    row.style.top = `${index * ROW}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(index === this.index));
    row.title = `${id}\n${words}`;
    row.onclick = () => this.pick(index);
    const image = make(row, "img");
    image.alt = "";
    const text = make(row, "div", "seg-words"), head = make(text, "div", "seg-head");
    make(head, "b", "", score);
    make(head, "span", "seg-given", verdict && `✓ ${verdict}`);
    make(text, "div", "seg-name", id);
    make(text, "div", "seg-why", words);
    this.thumbs.put(image, "images", id);
    return row;
  }
}

