// The filters above the browser, and the order of the list. All of them are one string, such as "cause=rare+class".

const SEARCHED = "id group worst_class top_confusion best_fix suspect_kind cause evidence note".split(" ");
const BINS = 20;  // of the IoU
const collator = new Intl.Collator(undefined, { numeric: true });
// The values of a row, by the filter that compares them.
const VALUES = { cause: (row) => [row.cause], sequence: (row) => [row.group], change: (row) => [row.change],
  tag: (row) => row.note?.match(/#[\p{L}\d_-]+/gu) ?? [], IoU: (row) => [binOf(row.miou)] };

// Unknown values come last in both directions.
function compare(one, other, down) {
  const [a, b] = [one, other].map((value) => (value === "" || value === undefined ? null : value));
  if (a === null || b === null) return (a === null) - (b === null);
  return (down ? -1 : 1) * (typeof a === "string" ? collator.compare(a, b) : a - b);
}

// [value, how many rows have it], the most frequent first.
function tally(rows, values) {
  const groups = Map.groupBy(rows.flatMap(values).filter(Boolean), (value) => value);
  return [...groups].map(([value, all]) => [value, all.length]).sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0]));
}

const counted = (...all) => tally(...all).map(([value, count]) => [value, `${value} (${count})`]);

// The bin of an IoU: from its lower edge to below its upper one; 1 is in the last.
function binOf(miou, bins = BINS) {
  const k = Math.min(bins - 1, Math.floor(miou * bins + 1e-9));
  return miou === null ? "" : [k, k + 1].map((edge) => (edge / bins).toFixed(2)).join(" to ");
}

class Filters {
  constructor(host, data, change) {
    const { rows, names, verdicts, none, rules, sorts, browse, views } = data, C = names.length;
    Object.assign(this, { names, none, sorts, change, views, inputs: {} });
    this.bar = make(host, "form", "seg-filters");
    this.chips = make(host, "div", "seg-bar");
    this.pairs = new Map(names.flatMap((truth, t) => names.map((pred, p) => [`${truth} -> ${pred}`, t * C + p])));
    const pairs = [...this.pairs.keys()], wrong = (code, k) => k % 2 === 0 && code % (C + 1);
    const confused = ({ pixels }) => pixels.filter(wrong).map((code) => pairs[code]);
    const count = (name) => this.menu(name, counted(rows, VALUES[name]));
    this.menu("images", rows.every((row) => row.failed) ? [] : ["failures", "passing", "all"], false);
    this.inputs.images.value = browse;
    count("cause");
    this.menu("class", names);
    this.menu("which", rules, false);
    this.menu("confusion", counted(rows, confused));
    count("sequence");
    this.menu("verdict", [none, ...verdicts]);
    count("change");
    count("tag");
    for (const [name, placeholder] of [["mean IoU from", "0"], ["to", "1"]]) {
      this.field(name, { type: "number", min: 0, max: 1, step: 0.05, placeholder });
    }
    this.field("text", { type: "search", placeholder: "words" });
    this.menu("sort by", sorts.map(([name]) => [name]), false);
    for (const hidden of ["IoU", "map"]) this.field(hidden, {}).parentElement.hidden = true;
    this.initial = this.values();
    button(this.bar, "Reset", "show all failures again", () => { this.text = ""; change(); });
    this.bar.oninput = (event) => { if (event.target !== this.name) change(); };
    this.bar.onsubmit = (event) => event.preventDefault();
  }

  // Filters by a name of one's own, kept by `keep(views)`; without it they can only be chosen.
  saved(keep) {
    const menu = field(this.bar, "seg-filter", "saved filters", {}, "select");
    const refresh = () => {
      offer(menu, ["", ...Object.keys(this.views)]);
      menu.parentElement.hidden = menu.options.length === 1;
    };
    menu.oninput = (event) => { event.stopPropagation(); this.text = this.views[menu.value] ?? ""; this.change(); };
    refresh();
    if (!keep) return;
    const name = this.name = field(this.bar, "seg-filter", "save filters as", { placeholder: "a name, Enter" });
    name.onkeydown = ({ key }) => {
      if (key !== "Enter" || !name.value) return;
      keep(Object.assign(this.views, { [name.value]: this.text }));
      name.value = "";
      refresh();
    };
  }

  field(name, settings, tag) { return (this.inputs[name] = field(this.bar, "seg-filter", name, settings, tag)); }

  menu(name, options, any = true) {
    const menu = this.field(name, {}, "select");
    offer(menu, any ? [["", "any"], ...options] : options);
    menu.parentElement.hidden = !options.length;  // a folder does not say, or there are no sequences
  }

  values() { return Object.fromEntries(Object.entries(this.inputs).map(([name, input]) => [name, input.value])); }

  set(name, value) { if (this.inputs[name]) this.inputs[name].value = value; }

  get text() {
    const set = Object.entries(this.values()).filter(([name, value]) => value !== this.initial[name]);
    return new URLSearchParams(set).toString();
  }

  set text(text) {
    for (const [name, value] of [...Object.entries(this.initial), ...new URLSearchParams(text)]) this.set(name, value);
  }

  // What is filtered by, each with a cross.
  draw() {
    this.chips.replaceChildren();
    for (const [name, value] of new URLSearchParams(this.text)) {
      if (["sort by", "which"].includes(name)) continue;
      const largest = name === "confusion" ? ", most pixels first" : "";
      const rule = name === "class" ? ` ${this.inputs.which.value}` : "";
      const text = `${name}: ${name === "map" ? "lasso" : value}${rule}${largest} ×`;
      button(this.chips, text, "take this filter away", () => { this.set(name, this.initial[name]); this.change(); });
    }
  }

  // The rows that pass, in the order of the list; in no order `without` one of the filters.
  choose(rows, without = "") {
    const value = { ...this.values(), [without]: this.initial[without] };
    const [low, high] = [value["mean IoU from"] || 0, value.to || 1].map(Number);
    const words = value.text.toLowerCase().split(/\s+/).filter(Boolean), c = this.names.indexOf(value.class);
    const lowest = this.inputs.which.selectedIndex > 0, lasso = value.map && new Path2D(`M${value.map}Z`);
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    this.inputs.which.disabled = !value.class;
    this.code = this.pairs.get(value.confusion);
    const has = ({ pixels }) => pixels.reduce((n, v, k) => (k % 2 && pixels[k - 1] === this.code ? v : n), 0);
    const tests = [
      value.images !== "all" && !value.change && ((row) => row.failed === (value.images !== "passing")),
      ...Object.keys(VALUES).map((name) => value[name] && ((row) => VALUES[name](row).includes(value[name]))),
      value.confusion && ((row) => (row.confused = has(row)) > 0),
      value.verdict && ((row) => (row.verdict || this.none) === value.verdict),
      value.class && ((row) => (lowest ? row.low.includes(c) : row.worst_class === value.class)),
      lasso && ((row) => canvas.isPointInPath(lasso, row.x, row.y)),
      (low > 0 || high < 1) && (({ miou }) => miou === null || (miou >= low - 1e-9 && miou <= high + 1e-9)),
      words.length && ((row) => {
        const text = SEARCHED.map((name) => row[name] ?? "").join("\n").toLowerCase();
        return words.every((word) => text.includes(word));
      }),
    ].filter(Boolean);
    const sorted = this.sorts.find(([name]) => name === value["sort by"]) ?? this.sorts[0];
    const largest = this.code !== undefined && sorted === this.sorts[0];
    const [, column, down] = largest ? ["", "confused", true] : sorted;
    const order = (a, b) => compare(a[column], b[column], down) || compare(a.miou, b.miou, false);
    const passing = rows.filter((row) => tests.every((test) => test(row)));
    return without ? passing : passing.sort(order);
  }
}
