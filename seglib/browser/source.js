// Where failures come from: a kernel that answers messages, or data embedded in the page. Both give promises of
//   open() -> names, colors, verdicts, rules, sorts, rows, problem
//   show(id, sharp) -> facts, width, height, step, finer, problems, layers: {name: Uint8Array}
//   thumb(kind, id) -> the address of a small picture, "" where there is none
//   write() -> text of what was written; keep(views): the filters that a person named
//   filters: the filters as one string, kept over a reload
//   judge(id, verdict, note) -> verdict, note, time, error; nobody saves what a `readOnly` source is told
// A kernel that is gone answers no more: a promise is then refused, or waits for ever.

const inflate = async (bytes) => {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

class Kernel {
  constructor(model) {
    Object.assign(this, { model, waiting: new Map(), asked: 0, token: Math.random(), readOnly: false });
    this.hear = (message, buffers) => {
      this.waiting.get(message.ask)?.([message, buffers]);
      this.waiting.delete(message.ask);
    };
    model.on("msg:custom", this.hear);
  }

  get filters() { return this.model.get("filters"); }

  set filters(text) {
    this.model.set("filters", text);
    this.model.save_changes();
  }

  close() { this.model.off("msg:custom", this.hear); }

  ask(message) {
    const ask = `${this.token} ${this.asked++}`;  // two views of one widget hear each other's answers
    return new Promise((answer) => {  // sending throws, or nothing comes back, once the kernel is gone
      this.waiting.set(ask, answer);
      this.model.send({ ...message, ask });
    });
  }

  async open() {
    const [, [data]] = await this.ask({ type: "open" });
    return JSON.parse(new TextDecoder().decode(await inflate(data)));
  }

  async show(id, sharp = false) {
    const [{ names, ...shown }, buffers] = await this.ask({ type: "show", id, sharp });
    return { ...shown, layers: Object.fromEntries(names.map((name, k) => [name, buffers[k]])) };
  }

  async thumb(kind, id) {
    const [, [bytes]] = await this.ask({ type: "thumb", kind, id });
    return bytes.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })) : "";
  }

  async judge(id, verdict, note) { return (await this.ask({ type: "judge", id, verdict, note }))[0]; }

  async write() { return (await this.ask({ type: "write" }))[0].text; }

  keep(views) { this.ask({ type: "keep", views }); }
}

// Verdicts that no kernel has saved yet, id -> [verdict, note]: the page keeps them, also over a reload.
class Unsaved {
  constructor(key) { Object.assign(this, { key, kept: JSON.parse(sessionStorage.getItem(key) ?? "{}") }); }

  put(id, given) {
    if (given) this.kept[id] = given; else delete this.kept[id];
    sessionStorage.setItem(this.key, JSON.stringify(this.kept));
  }
}

class Embedded {
  constructor(data) { Object.assign(this, { data, readOnly: true }); }

  get filters() { return location.hash.slice(1); }

  set filters(text) {
    try { history.replaceState(null, "", `#${text}`); } catch { /* a frame in a page has no address of its own */ }
  }

  async open() { return this.data; }

  async show(id) {
    const facts = this.data.facts[id], picture = this.data.pictures[id];
    if (!picture) return { facts, layers: {}, problems: ["Its pictures do not fit into this file."] };
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const layers = Object.entries(picture.layers).map(([name, text]) => [name, bytes(text)]);
    return { ...picture, facts, layers: Object.fromEntries(layers) };
  }

  async thumb(kind, id) {
    const small = kind === "nearest" ? this.data.nearest[id] : this.data.pictures[id]?.layers.image;
    return small ? `data:image/jpeg;base64,${small}` : "";
  }
}
