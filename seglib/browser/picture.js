// The picture of one failure: panels that share zoom and pan. Class ids, confidences and the suspect region arrive as
// bytes, one a pixel, and are coloured here: another layer or opacity needs no kernel, and every pixel can be read.

const ALL = ["image", "truth", "prediction", "errors"];
const CAPTIONS = { truth: "ground truth", errors: "errors in orange" };
const IGNORE = 255, GAP = 8, CAPTION = 19, DEEPEST = 64;
const CIVIDIS = [[0, 34, 78], [65, 77, 107], [124, 123, 120], [188, 175, 111], [254, 232, 56]];

const rgba = (r, g, b) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;  // as canvases store it, little endian
const ERROR = rgba(255, 122, 0), BLACK = rgba(0, 0, 0);
const RAMP = Uint32Array.from({ length: 256 }, (_, v) => {
  const at = Math.min(3, Math.floor(v / 64)), part = (v - at * 64) / 64;
  return rgba(...CIVIDIS[at].map((low, k) => Math.round(low + part * (CIVIDIS[at + 1][k] - low))));
});
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// A canvas of the colour of each pixel.
function painted(width, height, color) {
  const canvas = new OffscreenCanvas(width, height), pixels = new Uint32Array(width * height);
  for (let i = 0; i < pixels.length; i++) pixels[i] = color(i);  // many times as quick as map
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width), 0, 0);
  return canvas;
}

// The context of a canvas, cleared and of this size in CSS pixels.
function sized(canvas, width, height) {
  const context = canvas.getContext("2d"), dpr = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * dpr), height: Math.round(height * dpr) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  context.scale(dpr, dpr);
  return context;
}

// The edge of a region along the sides of its pixels: a path stays thin at every zoom, and hides nothing inside.
function outline(inside, w, h) {
  const path = new Path2D(), at = (x, y) => x >= 0 && y >= 0 && x < w && y < h && inside[y * w + x] > 0;
  for (let y = 0; y <= h; y++) {
    for (let x = 0; x <= w; x++) {
      if (at(x, y) !== at(x - 1, y)) { path.moveTo(x, y); path.lineTo(x, y + 1); }
      if (at(x, y) !== at(x, y - 1)) { path.moveTo(x, y); path.lineTo(x + 1, y); }
    }
  }
  return path;
}

class Picture {
  // read(values under the pointer, or null), focused() -> whether the wheel zooms
  constructor(host, colors, read, focused) {
    Object.assign(this, { host, read, focused, sample: null, arrays: {}, panels: [] });
    Object.assign(this, { view: "all", opacity: 0.6, brightness: 1, contrast: 1, suspect: true, full: false });
    this.palette = new Uint32Array(256).fill(BLACK);
    const channels = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
    colors.forEach((hex, c) => { this.palette[c] = rgba(...channels(hex)); });
    const canvas = this.canvas = make(host, "canvas");
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.onpointerdown = (event) => { this.drag = event; canvas.setPointerCapture(event.pointerId); };
    canvas.onpointermove = (event) => this.move(event);
    canvas.onlostpointercapture = () => { this.drag = null; };
    canvas.onpointerleave = () => this.point(null);
    canvas.ondblclick = () => this.fit();
  }

  // What a source gave, decoded and coloured: `load` shows it at once.
  async decoded({ layers: { image, ...planes }, ...sample }) {
    const bitmap = image && await createImageBitmap(new Blob([image])).catch(() => null), arrays = {};
    for (const [name, bytes] of Object.entries(planes)) arrays[name] = await inflate(bytes);
    const seen = new Uint8Array(256);
    for (const plane of [...ALL, "before"]) for (const id of arrays[plane] ?? []) seen[id] = 1;
    Object.assign(sample, { bitmap, arrays, over: {}, present: [...seen.keys()].filter((id) => seen[id]) });
    if (arrays.truth && arrays.prediction) for (const name of ALL.slice(1)) this.overlay(name, sample);
    return sample;
  }

  load(sample) {
    this.image?.close();
    Object.assign(this, { sample, image: sample.bitmap, arrays: sample.arrays, zoom: 1, x: 0.5, y: 0.5 });
    this.point(null);  // what was read there belongs to the picture before
  }

  has(name) {
    if (name === "all" || name === "errors") return Boolean(this.arrays.truth && this.arrays.prediction);
    return name === "image" ? Boolean(this.image) : name in this.arrays;
  }

  overlay(name, { arrays, over, width, height } = this.sample) {
    const { truth, prediction } = arrays, plane = arrays[name];
    const palette = name === "confidence" ? RAMP : this.palette;
    const error = (i) => (truth[i] === IGNORE ? BLACK : truth[i] === prediction[i] ? 0 : ERROR);
    return (over[name] ??= painted(width, height, plane ? (i) => palette[plane[i]] : error));
  }

  layout() {
    const names = this.view === "all" ? ALL.filter((name) => name === "image" || this.has(name)) : [this.view];
    const { width: w, height: h } = this.sample, room = Math.max(120, this.host.clientWidth);
    const highest = this.full ? innerHeight - 130 : Math.max(620, 0.6 * innerHeight);
    const rows = (columns) => Math.ceil(names.length / columns);
    const fits = (columns) =>
      Math.min((room - (columns - 1) * GAP) / columns / w, (highest / rows(columns) - CAPTION) / h);
    // More columns for panels that are nearly as large: a phone shows two by two.
    const columns = names.length === 1 ? 1 : [4, 2, 1].reduce((best, n) => (fits(n) > 1.15 * fits(best) ? n : best));
    const fit = fits(columns), scale = fit * this.zoom, width = w * fit, height = h * fit;
    this.panels = names.map((name, k) => {
      const x = (k % columns) * (width + GAP), y = Math.floor(k / columns) * (height + CAPTION) + CAPTION;
      const left = x + width / 2 - this.x * w * scale, top = y + height / 2 - this.y * h * scale;
      return { name, x, y, width, height, left, top, scale };
    });
    return [room, rows(columns) * (height + CAPTION)];
  }

  draw() {
    if (!this.sample?.width) { this.canvas.style.height = "0"; return; }
    const context = sized(this.canvas, ...this.layout()), pixel = context.getTransform().a;  // of the screen
    Object.assign(context, { fillStyle: getComputedStyle(this.host).color, font: "12px sans-serif" });
    for (const { name, x, y, width, height, left, top, scale } of this.panels) {
      context.fillText((CAPTIONS[name] ?? name) + (this.has(name) ? "" : ": unknown"), x + 1, y - 5);
      context.save();
      context.beginPath();
      context.rect(x, y, width, height);
      context.clip();
      context.translate(left, top);
      context.scale(scale, scale);
      context.imageSmoothingEnabled = scale * pixel < 1;
      this.paint(context, name, scale);
      context.restore();
    }
  }

  paint(context, name, scale) {
    const { width, height } = this.sample;
    context.filter = `brightness(${this.brightness}) contrast(${this.contrast})`;
    if (this.image) context.drawImage(this.image, 0, 0, width, height);
    Object.assign(context, { filter: "none", imageSmoothingEnabled: false });  // a blend would be a third class
    if (name === "errors") {  // dimmed and without colours, as seglib.data.overlay.error_map draws it
      for (const [globalCompositeOperation, fillStyle] of [["saturation", "#000"], ["source-over", "#00000080"]]) {
        Object.assign(context, { globalCompositeOperation, fillStyle }).fillRect(0, 0, width, height);
      }
    }
    // Errors are solid at the usual opacity: blended, their orange would be some class's brown.
    context.globalAlpha = name === "errors" ? Math.min(1, this.opacity / 0.6) : this.opacity;
    if (name !== "image" && this.has(name)) context.drawImage(this.overlay(name), 0, 0);
    context.globalAlpha = 1;
    if (this.suspect && this.has("suspect")) {  // where the label is in doubt; black and white are seen on any ground
      const { over } = this.sample, edge = (over.edge ??= outline(this.arrays.suspect, width, height));
      for (const [strokeStyle, line] of [["black", 4], ["white", 2]]) {
        Object.assign(context, { strokeStyle, lineWidth: line / scale, lineCap: "square" }).stroke(edge);
      }
    }
  }

  // The place in the middle is a share of width and height, as is that of the pointer.
  fit() { Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 }).draw(); }

  // Zoom by a factor, keeping the place in the image where it is on the screen.
  zoomBy(factor, [x, y] = [this.x, this.y]) {
    const zoom = clamp(this.zoom * factor, 1, DEEPEST), kept = this.zoom / zoom;
    this.zoom = zoom;
    this.goTo(x + (this.x - x) * kept, y + (this.y - y) * kept);
  }

  goTo(...place) {
    const half = 0.5 / this.zoom;
    [this.x, this.y] = place.map((v) => clamp(v, half, 1 - half));
    this.draw();
  }

  // The place in the image under the pointer; null outside every panel.
  place({ offsetX: x, offsetY: y }) {
    const panel = this.panels.find((p) => x >= p.x && x < p.x + p.width && y >= p.y && y < p.y + p.height);
    const { width, height } = this.sample ?? {};
    return panel ? [(x - panel.left) / panel.scale / width, (y - panel.top) / panel.scale / height] : null;
  }

  wheel(event) {
    const place = this.place(event);
    if (!place || !(this.focused() || event.ctrlKey)) return;  // without the focus, the wheel scrolls the notebook
    if (this.zoom === 1 && event.deltaY > 0) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * 0.002), place);
  }

  move(event) {
    if (this.drag && this.panels.length) {
      const { scale } = this.panels[0], { width, height } = this.sample;
      const moved = [event.offsetX - this.drag.offsetX, event.offsetY - this.drag.offsetY];
      this.goTo(this.x - moved[0] / scale / width, this.y - moved[1] / scale / height);
      this.drag = event;
    }
    this.point(this.place(event));
  }

  // Tell what lies at a place of the picture.
  point(place) {
    const { width, height, step } = this.sample ?? {}, { truth, prediction, confidence } = this.arrays;
    const [x, y] = (place ?? []).map((share, k) => Math.floor(share * (k ? height : width))), i = y * width + x;
    const values = { truth: truth?.[i], prediction: prediction?.[i], confidence: confidence?.[i] };
    this.read(place && { x: x * step, y: y * step, ...values });
  }
}
