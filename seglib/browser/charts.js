// Charts that are filters: a click leaves exactly the images that a bar or a cell counts. Each shows what passes the
// other filters.

const MATRIX = 12;  // classes of the matrix at most: those with the most pixels confused

class Charts {
  constructor(host, data, filters) {
    Object.assign(this, { host, data, filters });
    const panel = (title, name) => {
      const box = make(host, "div", "seg-chart");
      make(box, "div", "seg-label", title);
      return make(box, "div", name);
    };
    [this.causes, this.classes] = ["cause", "worst class"].map((title) => panel(title));
    this.bins = panel("mean IoU of an image, from 0 to 1", "seg-columns");
    this.matrix = panel("confused pixels: ground truth is taken for", "seg-matrix");
  }

  // A button that sets a filter, or takes it away again.
  part(host, name, value, title) {
    const pressed = this.filters.inputs[name].value === value;
    const pick = () => {
      if (name === "class") this.filters.inputs.which.selectedIndex = 0;
      this.filters.set(name, pressed ? "" : value);
      this.filters.change(true);
    };
    return button(host, "", title, pick, { ariaPressed: String(pressed), ariaLabel: title });
  }

  bars(host, name, counts) {
    host.replaceChildren();
    for (const [value, count] of counts) {
      const bar = this.part(host, name, value, `${value}: ${count} images`);
      make(bar, "span", "", value);
      make(bar, "i").style.width = `${(35 * count) / counts[0][1]}%`;
      make(bar, "span", "seg-muted", String(count));
    }
  }

  draw() {
    const { rows } = this.data, count = (name, values) => tally(this.filters.choose(rows, name), values);
    this.bars(this.causes, "cause", count("cause", VALUES.cause));
    this.bars(this.classes, "class", count("class", (row) => [row.worst_class]).slice(0, MATRIX));
    const counts = new Map(count("IoU", VALUES.IoU)), most = Math.max(1, ...counts.values());
    this.bins.replaceChildren();
    for (let k = 0; k < BINS; k++) {
      const bin = binOf(k / BINS), images = counts.get(bin) ?? 0;
      const column = this.part(this.bins, "IoU", bin, `mean IoU ${bin}: ${images} images`);
      make(column, "i").style.height = `${(100 * images) / most}%`;
    }
    this.confusions(this.filters.choose(rows, "confusion"));
    this.filters.choose(rows);  // its sizes of the confusion, if any
  }

  confusions(rows) {
    const { names, colors } = this.data, C = names.length;
    const pixels = new Float64Array(C * C), images = new Uint32Array(C * C);
    for (const row of rows) {
      for (let k = 0; k < row.pixels.length; k += 2) {
        pixels[row.pixels[k]] += row.pixels[k + 1];
        images[row.pixels[k]] += 1;
      }
    }
    const all = names.map((_, c) => c), sum = (values) => values.reduce((a, b) => a + b, 0);
    const wrong = all.map((c) => sum(all.map((d) => (c === d ? 0 : pixels[c * C + d] + pixels[d * C + c]))));
    const shown = [...all].sort((a, b) => wrong[b] - wrong[a]).slice(0, MATRIX).sort((a, b) => a - b);
    this.matrix.replaceChildren();
    this.matrix.style.gridTemplateColumns = `minmax(0, 90px) repeat(${shown.length}, minmax(0, 22px))`;
    make(this.matrix, "span");
    for (const c of shown) make(this.matrix, "i", "", "", { title: names[c] }).style.background = colors[c];
    for (const t of shown) {
      make(this.matrix, "span", "", names[t], { title: names[t] }).style.borderRight = `6px solid ${colors[t]}`;
      const total = sum(all.map((p) => pixels[t * C + p])) || 1;
      for (const p of shown) {
        const code = t * C + p, share = pixels[code] / total;
        const pair = `${names[t]} -> ${names[p]}`, part = `${(100 * share).toFixed(1)}% of ${names[t]}`;
        const told = `${pair}: ${pixels[code].toLocaleString()} pixels (${part}) in ${images[code]} images`;
        const cell = this.part(this.matrix, "confusion", pair, told), strength = Math.round(100 * Math.sqrt(share));
        cell.disabled = t === p || !images[code];
        cell.style.background = t === p ? "#8884" : `color-mix(in srgb, ${WRONG} ${strength}%, transparent)`;
      }
    }
  }
}
