// The part of the browser that judges: verdicts and notes, saved by a kernel or kept until one answers.

const LOST_KERNEL = "not saved: run this cell again", SLOW = 5000;  // milliseconds until an answer counts as lost

class Judge {
  judging(host) {
    this.label = make(host, "div", "seg-label");
    this.choices = (this.editable ? this.data.verdicts : []).map((name, k) =>
      [name, this.button(host, `${k + 1} ${name}`, "press again to remove it", [k + 1], () => this.judge(name))]);
    if (this.editable) {
      const undo = () => {
        const last = this.past.pop() ?? [];
        for (const [row, ...given] of last) this.give(row, ...given);
        if (last.length) this.open(last[0][0].id);
      };
      this.button(host, "undo", "take the last verdict back", ["u"], undo);
      this.step = make(make(host, "label", "seg-opacity", "step on"), "input");
      Object.assign(this.step, { type: "checkbox", checked: localStorage.seglibStep !== "no" });
      this.step.onchange = () => { localStorage.seglibStep = this.step.checked ? "yes" : "no"; };
    }
    const settings = { rows: 2, placeholder: "a note (n), saved as you type; #words are tags", ariaLabel: "note" };
    this.text = Object.assign(make(host, "textarea"), settings, { hidden: !this.editable });
    this.text.oninput = () => {
      clearTimeout(this.timer);
      this.typed = true;
      this.timer = setTimeout(() => this.keep(), 500);
    };
    this.keys.n = () => this.text.focus();
    this.status = Object.assign(make(host, "div", "seg-status"), { ariaLive: "polite" });
  }

  // Save a note that was typed but not yet sent: always before another failure is shown.
  keep() {
    clearTimeout(this.timer);
    if (this.typed && this.row) this.save();
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

  give(row, verdict, note) {
    Object.assign(row, { verdict, note });
    if (row === this.row) this.text.value = note;
    this.send(row);
  }

  save() {
    this.typed = false;
    this.give(this.row, this.row.verdict, this.text.value);
  }

  // Until the last of several changes is answered, what is on the buttons is newer than the answers. What no kernel
  // answers is released and kept for the next one; an answer that comes late counts all the same.
  async send(row) {
    const { verdict, note } = row, saving = row.saving = {};
    this.unsaved.put(row.id, [verdict, note]);
    if (this.row === row) this.say("saving …");
    const lost = () => {
      if (row.saving === saving) this.saved(row, { verdict: row.given ?? "", time: row.time, error: LOST_KERNEL });
    };
    setTimeout(lost, SLOW);
    const answer = await this.source.judge(row.id, verdict, note).catch(lost);
    if (row.saving !== saving || !answer) return;
    row.saving = null;
    this.unsaved.put(row.id);
    this.saved(row, answer);
    if (!answer.error) this.resend();
  }

  saved(row, { verdict, time, error }) {
    Object.assign(row, { verdict, time, error });
    if (error !== LOST_KERNEL) row.given = verdict;
    this.list.changed(row);
    this.tally();
    this.warn();
    if (this.row === row) this.say(error || (time ? "saved" : "verdict removed"), Boolean(error));
  }

  // Send what an earlier kernel did not save, now that one answers.
  resend() {
    for (const row of this.data.rows) {
      row.given ??= row.verdict;
      const kept = this.unsaved.kept[row.id];
      if (!kept || row.saving) continue;
      [row.verdict, row.note] = kept;
      this.send(row);
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
