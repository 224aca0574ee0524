// The panel beside the picture: what is known about the image, and the verdict on it. Verdicts and notes are saved by a
// kernel; those that none has saved yet the page keeps, also over a reload.

const LOST = ["#9fd0f0", "#0b3c6f", "#a6405f", "#e69f00", "#999999"];  // by kind of error, as the plots draw them
const LOST_KERNEL = "not saved: run this cell again", SLOW = 5000;  // milliseconds until an answer counts as lost

function swatch(parent, background, text) {
  const key = make(parent, "span", "seg-key");
  make(key, "i").style.background = background;
  make(key, "span", "", text);
}

class Panel {
  describe({ id }, { cause, sureness, evidence, suggestion, lost, rows, ious, nearest, similar }) {
    const host = this.facts;
    host.replaceChildren();
    make(host, "h4", "", id, { title: id });
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
    this.figures(this.near, "nearest training images", nearest, true);
    this.figures(this.alike, "similar images of the split", similar ?? [], false);
  }

  figures(host, title, ids, training) {
    host.replaceChildren();
    if (ids.length) make(host, "div", "seg-label", title);
    for (const id of ids) {
      const figure = make(host, "figure", "", "", { title: id });
      this.thumbs.put(figure, id, training);
      make(figure, "figcaption", "", id);
      if (this.editable) figure.onclick = () => this.open(id, training);
    }
  }

  // The IoU along the frames of a sequence; a click goes to a frame.
  sequence(frames, row) {
    this.strip.replaceChildren();
    for (const [id, miou] of frames?.length > 1 ? frames : []) {
      const tall = `${100 * Math.max(0.05, miou ?? 0)}%`, color = this.failed.has(id) ? WRONG : "#888";
      const frame = make(this.strip, "i", "", "", { title: `${id}: ${miou}`, onclick: () => this.open(id) });
      frame.style.background = `linear-gradient(to top, ${color} ${tall}, transparent 0)`;
      frame.ariaCurrent = String(id === row.id);
    }
  }

  judging(host) {
    this.label = make(host, "div", "seg-label");
    this.choices = (this.editable ? this.data.verdicts : []).map((name, k) =>
      [name, this.button(host, `${k + 1} ${name}`, `verdict: ${name}; again to remove it`, [k + 1], () => this.judge(name))]);
    if (this.editable) {
      this.button(host, "undo", "take the last verdict back", ["u"], () => {
        const last = this.past.pop() ?? [];
        for (const [row, ...given] of last) this.give(row, ...given);
        if (last.length) this.open(last[0][0].id);
      });
      const onchange = () => { localStorage.seglibStep = this.step.checked ? "yes" : "no"; };
      const checked = localStorage.seglibStep !== "no";
      this.step = field(host, "seg-opacity", "step on", { type: "checkbox", checked, onchange });
    }
    const placeholder = "a note (n), saved as you type; #words are tags";
    const settings = { rows: 2, placeholder, ariaLabel: "note", hidden: !this.editable };
    this.text = make(host, "textarea", "", "", settings);
    this.text.oninput = () => {
      clearTimeout(this.timer);
      this.typed = true;
      this.timer = setTimeout(() => this.keep(), 500);
    };
    this.keys.n = () => this.text.focus();
    this.status = make(host, "div", "seg-status", "", { ariaLive: "polite" });
  }

  // Save a note that was typed but not yet sent: always before another failure is shown.
  keep() {
    clearTimeout(this.timer);
    if (this.typed && this.row) this.give(this.row, this.row.verdict, this.text.value);
    this.typed = false;
  }

  judge(name) {
    if (!this.row || this.row.training) return;
    this.keep();
    const marked = [...this.list.marked], rows = marked.length ? marked : [this.row];
    const verdict = !marked.length && this.row.verdict === name ? "" : name;
    this.past.push(rows.map((row) => [row, row.verdict, row.note]));
    for (const row of rows) this.give(row, verdict, row.note);
    this.list.marked.clear();
    if (marked.length) this.list.draw();
    else if (verdict && this.step.checked && this.chosen[this.at] === this.row) this.go(this.at + 1);
  }

  // Until the last of several changes is answered, what is on the buttons is newer than the answers. What no kernel
  // answers is released and kept for the next one; an answer that comes late counts all the same.
  async give(row, verdict, note) {
    const saving = {}, { id } = row;
    Object.assign(row, { verdict, note, saving });
    sessionStorage.setItem(this.unsaved(row), JSON.stringify([verdict, note]));
    if (this.row === row) { this.text.value = note; this.say("saving …"); }
    const lost = () => { if (row.saving === saving) this.saved(row, { error: LOST_KERNEL }); };
    setTimeout(lost, SLOW);
    const answer = await this.source.ask("judge", { id, verdict, note }).catch(lost);
    if (row.saving !== saving || !answer) return;
    row.saving = null;
    sessionStorage.removeItem(this.unsaved(row));
    if (answer.error) answer.error = `not saved: ${answer.error}`; else row.given = answer.verdict;
    this.saved(row, answer);
    if (!answer.error) this.resend();
  }

  unsaved({ id }) { return `seglib ${this.data.folder} ${id}`; }

  saved(row, { verdict = row.given ?? "", time = row.time, error }) {
    Object.assign(row, { verdict, time, error });
    this.list.changed(row);
    this.warn();
    if (this.row === row) this.say(error || (time ? "saved" : "verdict removed"), Boolean(error));
    else this.tally();
  }

  // Send what an earlier kernel did not save, now that one answers.
  resend() {
    for (const row of this.data.rows) {
      row.given ??= row.verdict;
      const kept = sessionStorage.getItem(this.unsaved(row));
      if (kept && !row.saving) this.give(row, ...JSON.parse(kept));
    }
  }

  say(text, problem = false) {
    const { verdict, note } = this.row, given = this.editable ? [] : [verdict || this.data.none, note];
    this.status.textContent = [...given, text].filter(Boolean).join("\n");
    this.status.classList.toggle("seg-problem", problem);
    for (const [name, choice] of this.choices) choice.ariaPressed = String(name === verdict);
    this.tally();
  }

  tally() {
    const judged = this.chosen.filter((row) => row.verdict).length;
    this.label.textContent = `${this.editable ? "your verdict" : "verdict"}: ${judged} of ${this.chosen.length} judged`;
  }
}
