// Where failures come from: a kernel that answers messages, or data embedded in the page. Both give promises of
//   open() -> what `listing` returns; show(id, training) -> facts, and what `Details.pack` returns
//   thumb(id, training) -> the address of a small picture, "" where there is none
// and keep `filters`, as one string, over a reload. A kernel also takes verdicts (judge), named filters (keep) and the
// wish to write; once it is gone, a promise is refused or waits for ever.

const inflate = async (bytes) => {
  const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter();
  for (const sent of [writer.write(bytes), writer.close()]) sent.catch(() => {});  // reading fails too, and says so
  return new Uint8Array(await new Response(stream.readable).arrayBuffer());
};

class Kernel {
  constructor(model) {
    Object.assign(this, { model, waiting: new Map(), asked: 0, token: Math.random(), readOnly: false });
    this.hear = ({ ask, ...answer }, buffers) => {
      this.waiting.get(ask)?.({ ...answer, buffers });
      this.waiting.delete(ask);
    };
    model.on("msg:custom", this.hear);
  }

  get filters() { return this.model.get("filters"); }

  set filters(text) { this.model.set("filters", text); this.model.save_changes(); }

  close() { this.model.off("msg:custom", this.hear); }

  ask(type, message = {}) {
    const ask = `${this.token} ${this.asked++}`;  // two views of one widget hear each other's answers
    return new Promise((answer) => {  // sending throws, or nothing comes back, once the kernel is gone
      this.waiting.set(ask, answer);
      this.model.send({ ...message, type, ask });
    });
  }

  async open() { return JSON.parse(new TextDecoder().decode(await inflate((await this.ask("open")).buffers[0]))); }

  async show(id, training = false) {
    const { names, buffers, ...shown } = await this.ask("show", { id, training });
    return { ...shown, layers: Object.fromEntries(names.map((name, k) => [name, buffers[k]])) };
  }

  async thumb(id, training) {
    const [bytes] = (await this.ask("thumb", { id, training })).buffers;
    return bytes.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })) : "";
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
    const layers = Object.entries(picture.layers).map(([name, text]) =>
      [name, Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
    return { ...picture, facts, layers: Object.fromEntries(layers) };
  }

  async thumb(id, training) {
    const small = training ? this.data.nearest[id] : this.data.pictures[id]?.layers.image;
    return small ? `data:image/jpeg;base64,${small}` : "";
  }
}
