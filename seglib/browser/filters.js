// The filters above the browser, and the order of the list.

const OFFERED = 100;  // values of a menu: the rarer ones are found by their words
const SEARCHED = "id group worst_class top_confusion best_fix suspect_kind cause evidence note".split(" ");
const collator = new Intl.Collator(undefined, { numeric: true });

// Unknown values come last, whatever the direction.
function compare(one, other, down) {
  const [a, b] = [one, other].map((value) => (value === "" || value === undefined ? null : value));
  if (a === null || b === null) return (a === null) - (b === null);
  return (down ? -1 : 1) * (typeof a === "string" ? collator.compare(a, b) : a - b);
}

// [value, text] of the values that occur, the most frequent first.
function counted(rows, values) {
  const counts = new Map();
  for (const row of rows) for (const value of values(row)) if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
  const known = [...counts].sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0])).slice(0, OFFERED);
  return known.map(([value, count]) => [value, `${value} (${count})`]);
}

class Filters {
  constructor(host, { rows, names, verdicts, none, rules, sorts }, change) {
    Object.assign(this, { names, none, sorts, inputs: {}, bar: make(host, "form", "seg-filters") });
    const twice = (values) => values.map((value) => [value, value]);
    this.menu("cause", counted(rows, (row) => [row.cause]));
    this.menu("class", twice(names));
    this.menu("which", twice(rules), false);
    this.menu("confusion", counted(rows, (row) => [row.top_confusion, row.best_fix]));
    this.menu("sequence", counted(rows, (row) => [row.group]));
    this.menu("verdict", twice([none, ...verdicts]));
    this.field("mean IoU from", { type: "number", min: 0, max: 1, step: 0.05, placeholder: "0" });
    this.field("to", { type: "number", min: 0, max: 1, step: 0.05, placeholder: "1" });
    this.field("text", { type: "search", placeholder: "words" });
    this.menu("sort by", sorts.map(([name], k) => [String(k), name]), false);
    button(this.bar, "Reset", "show all failures again", () => { this.bar.reset(); change(); });
    Object.assign(this.bar, { oninput: change, onsubmit: (event) => event.preventDefault() });
  }

  field(name, settings, tag = "input") {
    const label = make(this.bar, "label", "seg-filter", name);
    this.inputs[name] = Object.assign(make(label, tag), { ariaLabel: name, autocomplete: "off" }, settings);
    return label;
  }

  menu(name, options, any = true) {
    const label = this.field(name, {}, "select");
    for (const [value, text] of [...(any ? [["", "any"]] : []), ...options]) {
      make(this.inputs[name], "option", "", text).value = value;
    }
    label.hidden = !options.length;  // an older folder does not say, or there are no sequences
  }

  // The rows that pass, in the order of the list.
  choose(rows) {
    const value = Object.fromEntries(Object.entries(this.inputs).map(([name, input]) => [name, input.value]));
    const [low, high] = [value["mean IoU from"] || 0, value.to || 1].map(Number);
    const words = value.text.toLowerCase().split(/\s+/).filter(Boolean), c = this.names.indexOf(value.class);
    const lowest = this.inputs.which.selectedIndex > 0;
    this.inputs.which.disabled = !value.class;
    const tests = [
      value.cause && ((row) => row.cause === value.cause),
      value.sequence && ((row) => row.group === value.sequence),
      value.confusion && ((row) => [row.top_confusion, row.best_fix].includes(value.confusion)),
      value.verdict && ((row) => (row.verdict || this.none) === value.verdict),
      value.class && ((row) => (lowest ? row.low.includes(c) : row.worst_class === value.class)),
      (low > 0 || high < 1) && (({ miou }) => miou === null || (miou >= low - 1e-9 && miou <= high + 1e-9)),
      words.length && ((row) => {
        const text = SEARCHED.map((name) => row[name] ?? "").join("\n").toLowerCase();
        return words.every((word) => text.includes(word));
      }),
    ].filter(Boolean);
    const [, column, down] = this.sorts[Number(value["sort by"])];
    const order = (a, b) => compare(a[column], b[column], down) || compare(a.miou, b.miou, false);
    return rows.filter((row) => tests.every((test) => test(row))).sort(order);
  }
}
