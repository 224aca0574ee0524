// What is known about an image, beside its picture.

const LOST = ["#9fd0f0", "#0b3c6f", "#a6405f", "#e69f00", "#999999"];  // by kind of error, as the plots draw them

// The colour under an element, for what leaves its place.
function ground(element) {
  for (; element; element = element.parentElement) {
    const { backgroundColor } = getComputedStyle(element);
    if (!/, 0\)$/.test(backgroundColor)) return backgroundColor;
  }
  return "Canvas";
}

function swatch(parent, background, text) {
  const key = make(parent, "span", "seg-key");
  make(key, "i").style.background = background;
  make(key, "span", "", text);
}

class Facts extends Judge {
  describe({ id }, { cause, sureness, evidence, suggestion, lost, rows, ious, nearest, similar }) {
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
    const known = nearest?.length ? "" : nearest ? ": none" : ": unknown";
    this.figures(this.near, `nearest training images${known}`, "nearest", nearest ?? []);
    this.figures(this.alike, similar?.length ? "similar images of the split" : "", "images", similar ?? []);
  }

  figures(host, title, kind, ids) {
    host.replaceChildren();
    make(host, "div", "seg-label", title);
    for (const id of ids) {
      const figure = Object.assign(make(host, "figure"), { title: id });
      this.thumbs.put(make(figure, "img"), kind, id);
      make(figure, "figcaption", "", id);
      if (this.data.training && this.editable) figure.onclick = () => this.open(id, kind === "nearest");
    }
  }
}
