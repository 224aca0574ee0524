// The picture of one failure: panels that share zoom and pan. Class ids, confidences and the suspect region arrive as
// bytes, one a pixel, and are coloured here: another layer or opacity needs no kernel, and every pixel can be read.

const ALL = ["image", "truth", "prediction", "errors"];
const IGNORE = 255, GAP = 8, CAPTION = 19, HIGHEST = 620, DEEPEST = 64;
const CIVIDIS = [[0, 34, 78], [65, 77, 107], [124, 123, 120], [188, 175, 111], [254, 232, 56]];

const rgba = (r, g, b, a = 255) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;  // as canvases store it, little endian
const channels = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const ERROR = rgba(255, 122, 0), HATCH = [rgba(96, 96, 96), rgba(0, 0, 0)];
const ramp = Uint32Array.from({ length: 256 }, (_, v) => {
  const at = Math.min(3, Math.floor(v / 64)), part = (v - at * 64) / 64;
  return rgba(...CIVIDIS[at].map((low, k) => Math.round(low + part * (CIVIDIS[at + 1][k] - low))));
});

const inflate = async (bytes) => {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

function painted(width, height, color) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), data = context.createImageData(width, height);
  const pixels = new Uint32Array(data.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = color(i);
  context.putImageData(data, 0, 0);
  return canvas;
}

// The ids that occur in any of these arrays, ascending.
function occurring(...planes) {
  const seen = new Uint8Array(256);
  for (const plane of planes) for (const id of plane ?? []) seen[id] = 1;
  return [...seen.keys()].filter((id) => seen[id]);
}

// The edge of a region along the sides of its pixels: a path stays thin at every zoom, and hides nothing of what it surrounds.
function outline(inside, w, h) {
  const path = new Path2D();
  const runs = (lines, length, across, along, place) => {
    for (let line = 0; line <= lines; line++) {
      for (let k = 0, start = -1; k <= length; k++) {
        const i = line * across + k * along;
        const edge = k < length && (line > 0 && inside[i - across] > 0) !== (line < lines && inside[i] > 0);
        if (edge && start < 0) start = k;
        if (!edge && start >= 0) { path.moveTo(...place(start, line)); path.lineTo(...place(k, line)); start = -1; }
      }
    }
  };
  runs(h, w, w, 1, (x, y) => [x, y]);
  runs(w, h, 1, w, (y, x) => [x, y]);
  return path;
}

class Picture {
  constructor(host, colors, { read, focused, sharpen }) {
    Object.assign(this, { host, read, focused, sharpen, view: "all", opacity: 0.6, suspect: true, ticket: 0 });
    Object.assign(this, { sample: null, arrays: {}, image: null, present: [], pointer: null });
    this.canvas = host.appendChild(document.createElement("canvas"));
    this.palette = new Uint32Array(256).fill(rgba(0, 0, 0));
    colors.forEach((hex, c) => { this.palette[c] = rgba(...channels(hex)); });
    const on = (name, answer, options) => this.canvas.addEventListener(name, answer, options);
    on("wheel", (event) => this.wheel(event), { passive: false });
    on("pointerdown", (event) => { this.drag = event; this.canvas.setPointerCapture(event.pointerId); });
    on("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) on(end, () => { this.drag = null; });
    on("pointerleave", () => { this.pointer = null; this.read(null); this.draw(); });
    on("dblclick", () => this.fit());
  }

  // Whether this failure is the one on show in the end: another may have been asked for while it was unpacked.
  async load(sample, buffers) {
    const ticket = ++this.ticket;
    if (!(await this.unpack(sample, buffers, () => ticket === this.ticket))) return false;
    if (!this.image && sample.layers.includes("image")) sample.problems.push("The image cannot be decoded.");
    Object.assign(this, { sample, pointer: null });  // what was read there belongs to the picture before
    this.read(null);
    this.fit();
    return true;
  }

  // All pixels of the failure on show, in the place of a reduced picture; what is in sight stays in sight.
  async sharper({ id, width, height, step, layers }, buffers) {
    const { sample } = this, awaited = () => this.sample === sample && sample?.id === id && sample.step > step;
    if (!awaited() || !(await this.unpack({ layers }, buffers, awaited))) return;
    const factor = [width / sample.width, height / sample.height];
    [this.x, this.y] = [this.x * factor[0], this.y * factor[1]];
    this.pointer &&= this.pointer.map((v, k) => v * factor[k]);
    Object.assign(sample, { width, height, step });
    if (this.pointer) this.read(this.at(...this.pointer.map(Math.floor)));
  }

  async unpack({ layers }, buffers, awaited) {
    const arrays = {};
    let image = null;
    await Promise.all(layers.map(async (name, k) => {
      if (name === "image") image = await createImageBitmap(new Blob([buffers[k]])).catch(() => null);
      else arrays[name] = await inflate(buffers[k]);
    }));
    if (!awaited()) { image?.close(); return false; }
    this.image?.close();
    Object.assign(this, { arrays, image, over: {}, present: occurring(arrays.truth, arrays.prediction) });
    return true;
  }

  get size() { return [this.sample.width, this.sample.height]; }

  has(name) {
    if (name === "all") return this.has("errors");
    if (name === "errors") return Boolean(this.arrays.truth && this.arrays.prediction);
    return name === "image" ? Boolean(this.image) : name in this.arrays;
  }

  overlay(name) {
    const { truth, prediction, confidence } = this.arrays, [w, h] = this.size;
    const colors = {
      truth: (i) => this.palette[truth[i]],
      prediction: (i) => this.palette[prediction[i]],
      confidence: (i) => ramp[confidence[i]],
      errors: (i) => {
        if (truth[i] === IGNORE) return HATCH[((i % w) + Math.floor(i / w)) % 8 < 2 ? 0 : 1];
        return truth[i] === prediction[i] ? 0 : ERROR;
      },
    };
    return (this.over[name] ??= painted(w, h, colors[name]));
  }

  // Where the label is in doubt: the outline of the region, or its box where no more is known.
  edge() {
    if (this.has("suspect")) return (this.over.edge ??= outline(this.arrays.suspect, ...this.size));
    const path = new Path2D(), [x0, y0, x1, y1] = (this.sample.box ?? [0, 0, 0, 0]).map((v) => v / this.sample.step);
    if (x1 > x0) path.rect(x0, y0, x1 - x0, y1 - y0);
    return path;
  }

  layout() {
    const names = this.view === "all" ? (this.has("all") ? ALL : ["image"]) : [this.view];
    const [w, h] = this.size, room = Math.max(120, this.host.clientWidth);
    const scale = (columns) => {
      const rows = Math.ceil(names.length / columns);
      return Math.min((room - (columns - 1) * GAP) / columns / w, (HIGHEST / rows - CAPTION) / h);
    };
    const columns = names.length === 1 ? 1 : [1, 2, 4].reduce((best, n) => (scale(n) > scale(best) ? n : best), 1);
    const fit = scale(columns), width = w * fit, height = h * fit;
    const panels = names.map((name, k) => ({
      name, x: (k % columns) * (width + GAP), y: Math.floor(k / columns) * (height + CAPTION) + CAPTION, width, height,
    }));
    return { panels, fit, room, high: Math.ceil(names.length / columns) * (height + CAPTION) };
  }

  draw() {
    if (!this.sample?.width) { this.canvas.style.height = "0"; return; }
    const { panels, fit, room, high } = this.layout(), dpr = window.devicePixelRatio || 1, scale = fit * this.zoom;
    const pixels = [Math.round(room * dpr), Math.round(high * dpr)];
    if (this.canvas.width !== pixels[0]) this.canvas.width = pixels[0];
    if (this.canvas.height !== pixels[1]) this.canvas.height = pixels[1];
    Object.assign(this.canvas.style, { width: `${room}px`, height: `${high}px` });
    const context = this.canvas.getContext("2d");
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.clearRect(0, 0, room, high);
    context.fillStyle = getComputedStyle(this.host).color;
    context.font = "12px sans-serif";
    this.panels = panels.map((panel) => ({
      ...panel,
      scale,
      left: panel.x + panel.width / 2 - this.x * scale,
      top: panel.y + panel.height / 2 - this.y * scale,
    }));
    if (this.sample.finer && scale * dpr > 1) this.ask();
    for (const panel of this.panels) {
      const known = panel.name === "errors" ? "errors in orange" : panel.name;
      context.fillText(this.has(panel.name) ? known : `${panel.name}: unknown`, panel.x + 1, panel.y - 5);
      context.save();
      context.beginPath();
      context.rect(panel.x, panel.y, panel.width, panel.height);
      context.clip();
      context.translate(panel.left, panel.top);
      context.scale(scale, scale);
      this.paint(context, panel, scale * dpr);
      context.restore();
    }
  }

  // More pixels, once one stays with this failure: those who step on need none.
  ask() {
    const { sample } = this;
    sample.finer = false;
    setTimeout(() => { if (this.sample === sample) this.sharpen(sample.id); }, 250);
  }

  paint(context, { name }, zoom) {
    const [w, h] = this.size;
    context.imageSmoothingEnabled = zoom < 1;
    if (this.image) context.drawImage(this.image, 0, 0, w, h);
    context.imageSmoothingEnabled = false;  // a blend of two class colours would be a third class's
    if (name === "errors") {  // dimmed and without colours, as seglib.data.overlay.error_map draws it
      for (const [mode, color] of [["saturation", "#000"], ["source-over", "rgba(0, 0, 0, 0.5)"]]) {
        Object.assign(context, { globalCompositeOperation: mode, fillStyle: color });
        context.fillRect(0, 0, w, h);
      }
    }
    // Errors are solid at the usual opacity: blended, their orange would be some class's brown.
    context.globalAlpha = name === "errors" ? Math.min(1, this.opacity / 0.6) : this.opacity;
    if (name !== "image" && this.has(name)) context.drawImage(this.overlay(name), 0, 0);
    context.globalAlpha = 1;
    if (this.suspect) {
      const edge = this.edge();
      for (const [color, line] of [["black", 4], ["white", 2]]) {  // seen on any ground, as in sheets and report
        const lineWidth = (line * (window.devicePixelRatio || 1)) / zoom;
        Object.assign(context, { strokeStyle: color, lineWidth, lineCap: "square" });
        context.stroke(edge);
      }
    }
    if (this.pointer && this.panels.length > 1) {  // the same place in every panel
      const [x, y] = this.pointer, arm = 7 / zoom;
      Object.assign(context, { strokeStyle: "white", lineWidth: 1.5 / zoom, globalCompositeOperation: "difference" });
      context.beginPath();
      context.moveTo(x - arm, y);
      context.lineTo(x + arm, y);
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
      context.stroke();
    }
  }

  fit() {
    if (!this.sample) return;
    [this.zoom, this.x, this.y] = [1, this.sample.width / 2, this.sample.height / 2];
    this.draw();
  }

  // Zoom by a factor, keeping the place in the image where it is on the screen.
  zoomBy(factor, place = [this.x, this.y]) {
    if (!this.sample) return;
    const zoom = Math.min(DEEPEST, Math.max(1, this.zoom * factor)), kept = this.zoom / zoom;
    this.zoom = zoom;
    this.goTo(place[0] + (this.x - place[0]) * kept, place[1] + (this.y - place[1]) * kept);
  }

  goTo(x, y) {
    const [w, h] = this.size, half = 0.5 / this.zoom;
    this.x = Math.min(w * (1 - half), Math.max(w * half, x));
    this.y = Math.min(h * (1 - half), Math.max(h * half, y));
    this.draw();
  }

  // The place in the image under the pointer, in its pixels; null outside every panel.
  place(event) {
    const x = event.offsetX, y = event.offsetY;
    const panel = this.panels?.find((p) => x >= p.x && x < p.x + p.width && y >= p.y && y < p.y + p.height);
    return panel ? [(x - panel.left) / panel.scale, (y - panel.top) / panel.scale] : null;
  }

  wheel(event) {
    const place = this.place(event);
    if (!place || !(this.focused() || event.ctrlKey)) return;  // without the focus, the wheel scrolls the notebook
    if (this.zoom === 1 && event.deltaY > 0) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * 0.002), place);
  }

  move(event) {
    if (this.drag && this.panels?.length) {
      const { scale } = this.panels[0];
      const moved = [event.offsetX - this.drag.offsetX, event.offsetY - this.drag.offsetY];
      this.goTo(this.x - moved[0] / scale, this.y - moved[1] / scale);
      this.drag = event;
    }
    this.pointer = this.place(event);
    this.read(this.pointer && this.at(...this.pointer.map(Math.floor)));
    if (this.panels?.length > 1) requestAnimationFrame(() => this.draw());
  }

  at(x, y) {
    const i = y * this.sample.width + x, { truth, prediction, confidence } = this.arrays;
    const { step } = this.sample;
    return { x: x * step, y: y * step, truth: truth?.[i], prediction: prediction?.[i], confidence: confidence?.[i] };
  }
}
