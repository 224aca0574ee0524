// The map: images as points where their features lie, near each other where the model sees them alike.

const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#999999"];
const COLORED = { IoU: (row) => binOf(row.miou, 5), cause: (row) => row.cause, sequence: (row) => row.group,
  split: (row) => (row.failed ? "fails" : "passes") };

class Embedding {
  // lasso(text of the polygon, "" for none), open(id, whether it is a training image), thumb(id, training)
  constructor(host, { rows, training }, { lasso, open, thumb }) {
    Object.assign(this, { thumb, mode: "IoU", path: null, under: null });
    this.training = training.map(([id, x, y]) => ({ id, x, y, training: true }));
    this.points = [...this.training, ...rows.filter((row) => row.x != null)];
    const bar = make(host, "div", "seg-bar");
    make(bar, "span", "seg-muted", "near: alike to the model · drag: lasso · click: open · colour by");
    const oninput = (event) => { this.mode = event.target.value; this.draw(); };
    offer(make(bar, "select", "seg-button", "", { ariaLabel: "colour by", oninput }), Object.keys(COLORED));
    this.keys = make(bar, "span", "seg-keys");
    const canvas = this.canvas = make(make(host, "div", "seg-map"), "canvas");
    this.tip = make(canvas.parentElement, "figure", "seg-tip", "", { hidden: true });
    [this.image, this.words] = [make(this.tip, "img"), make(this.tip, "figcaption")];
    canvas.onpointerdown = (event) => { this.path = []; canvas.setPointerCapture(event.pointerId); };
    canvas.onpointermove = (event) => {
      if (!this.path) { this.point(event); return; }
      this.path.push(this.share(event).map((v) => v.toFixed(3)).join());
      requestAnimationFrame(() => this.draw());
    };
    canvas.onpointerup = () => {
      const path = this.path ?? [];
      this.path = null;
      if (path.length > 5) lasso(path.join(" "));
      else if (this.under) open(this.under.id, Boolean(this.under.training));
      else lasso("");
    };
    canvas.onpointerleave = () => { this.tip.hidden = true; };
  }

  share({ offsetX, offsetY }) {
    const { clientWidth, clientHeight } = this.canvas;
    return [(offsetX - 8) / (clientWidth - 16), (offsetY - 8) / (clientHeight - 16)];
  }

  // The small picture of the nearest point, within 8 pixels.
  async point(event) {
    const [x, y] = this.share(event), w = this.canvas.clientWidth, h = this.canvas.clientHeight;
    let [under, nearest] = [null, 64];
    for (const point of this.points) {
      const far = ((point.x - x) * w) ** 2 + ((point.y - y) * h) ** 2;
      if (far < nearest) [under, nearest] = [point, far];
    }
    if (under === this.under) return;
    Object.assign(this, { under });
    this.tip.hidden = !under;
    if (!under) return;
    this.words.textContent = `${under.id}${under.training ? ", training" : `: ${under.miou?.toFixed(3) ?? "–"}`}`;
    const left = clamp(event.offsetX + 12, 0, w - 180);
    Object.assign(this.tip.style, { left: `${left}px`, top: `${event.offsetY + 12}px` });
    this.image.removeAttribute("src");
    const address = await this.thumb(under.id, Boolean(under.training));
    if (this.under === under && address) this.image.src = address;
  }

  draw(chosen = this.chosen) {
    this.chosen = chosen;
    const { mode } = this, width = this.canvas.parentElement.clientWidth;
    if (!width) return;
    const context = sized(this.canvas, width, 300), high = 300 - 16, wide = width - 16;
    const dots = (points, color, size) => {
      context.fillStyle = color;
      for (const { x, y } of points) context.fillRect(8 + x * wide - size / 2, 8 + y * high - size / 2, size, size);
    };
    dots(this.points, "#8886", 4);
    const groups = Map.groupBy(chosen.filter((row) => row.x != null), COLORED[mode]);
    const most = (a, b) => !a - !b || groups.get(b).length - groups.get(a).length, bins = mode === "IoU";
    const largest = [...groups.keys()].sort(bins ? collator.compare : most);
    this.keys.replaceChildren();
    swatch(this.keys, "#8886", "training, or filtered out");
    largest.forEach((value, k) => {
      const last = HUES.length - 1, hue = HUES[value ? Math.min(k, last) : last];
      const color = bins && value ? `rgb(${CIVIDIS[Math.round(5 * parseFloat(value))]})` : hue;
      dots(groups.get(value), "#888", 7);  // an edge, so that pale and dark colours show on any ground
      dots(groups.get(value), color, 5);
      if (k <= last) swatch(this.keys, color, k === last && largest.length > HUES.length ? "others" : value || "none");
    });
    const lasso = new Path2D(), toCanvas = new DOMMatrix([wide, 0, 0, high, 8, 8]);
    lasso.addPath(new Path2D(`M${this.path?.join(" ") ?? ""}Z`), toCanvas);
    Object.assign(context, { strokeStyle: "#1565c0", lineWidth: 2 }).stroke(lasso);
  }
}
