// The model writes: tokens arrive one by one, each with the distribution from which it was drawn.

import { stream } from "../api.js";
import { change, chosenRun, state, subscribe } from "../state.js";
import { debounce, field, h, hideTip, latest, tokenLabel } from "../ui.js";
import { branchOf, makeBranches } from "../write/branches.js";
import { makeControls } from "../write/controls.js";
import { panel } from "../write/panel.js";
import { legend, makeStrip } from "../write/strip.js";

const branches = makeBranches(); // kept while the page is open
let run = null; // of the branches
let prompt = null; // that the branches began with

export default {
  id: "write",
  title: "Write",
  text: false, // it has a field of its own
  tasks: ["pretrain", "instruct"],
  mount: (root) => new Write(root).mount(),
};

/** The checkpoint or learning session whose distributions are shown. */
const model = () => `${state.step} ${state.session}`;

class Write {
  constructor(root) {
    this.root = root;
    this.selected = null;
    this.writing = false;
    this.status = h("div", { class: "write-status" });
    this.message = h("p", { class: "note", role: "status" });
    this.work = latest(this.status);
    this.controls = makeControls(() => this.reshape());
    this.strip = makeStrip({ options: this.controls.options, onSelect: (index) => this.select(index) });
    this.joined = h("p", { class: "joined mono" });
    this.list = h("div", { class: "branch-list", role: "group", "aria-label": "branches" });
    this.panel = h("section", { class: "panel write-panel", "aria-label": "selected token" });
  }

  mount() {
    this.prompt = h("textarea", { rows: 2, spellcheck: "false", maxlength: "100000" });
    this.prompt.value = state.text;
    this.prompt.addEventListener("input", debounce(() => change({ text: this.prompt.value }), 350));
    const button = (text, onclick, more = {}) => h("button", { onclick, ...more }, text);
    this.buttons = {
      write: button("Write", () => this.write(), { class: "primary" }),
      more: button("Continue", () => this.more(), { title: "write on from the end of the text" }),
      stop: button("Stop", () => this.stop()),
      undo: button("Undo", () => this.undo(), { title: "return to the text before the last step" }),
    };
    this.root.append(
      h("h2", {}, "Write"),
      h("p", {}, "The model writes one token at a time: from the text so far it computes a probability for each token ",
        "of its vocabulary, and one of them is drawn. Select a token to see the others; choose another one to branch."),
      h("div", { class: "write-prompt" }, field("Prompt", this.prompt)),
      this.controls.element,
      h("div", { class: "row" }, Object.values(this.buttons), this.message),
      this.status,
      h("div", { class: "write-columns" },
        h("div", { class: "write-text" },
          legend(), this.strip.element,
          h("details", {}, h("summary", {}, "The text without marks"), this.joined)),
        this.panel,
        h("div", { class: "write-branches" }, h("h3", {}, "Branches"), this.list)));
    this.controls.vocabulary(chosenRun().config.vocab_size);
    const end = subscribe((changed) => this.changed(changed));
    if (state.session) branches.all.forEach((branch) => (branch.model = "")); // its weights may have changed since
    if (run === state.run && prompt === state.text && branches.current) this.show();
    else this.begin(run === state.run);
    return () => {
      end();
      this.generation = null;
      this.work.stop();
    };
  }

  changed(changed) {
    if (this.prompt.value !== state.text) this.prompt.value = state.text;
    if (changed.has("run")) {
      this.controls.vocabulary(chosenRun().config.vocab_size);
      this.begin(false);
    } else if (changed.has("text") && state.text !== prompt) {
      this.begin(true);
    } else if (changed.has("step") || changed.has("session")) {
      this.work.stop();
      this.show();
    }
  }

  /** Begins with the prompt alone; `undoable`: the branches so far can be brought back. */
  begin(undoable) {
    if (undoable && branches.current?.tokens.some(({ source }) => source !== "prompt")) this.remember();
    if (!undoable) branches.forget();
    [run, prompt] = [state.run, state.text];
    this.writing = false;
    branches.begin(branchOf([]));
    this.selected = null;
    this.draw();
    this.work((signal) => this.expect(branches.current, { text: prompt }, signal));
  }

  remember() {
    branches.remember({ prompt, selected: this.selected });
  }

  /** Computes what the model expected at each token of a branch; `body` has its text or its ids. */
  async expect(branch, body, signal) {
    let index = 0;
    await stream("/api/expected", body, (line) => {
      const old = branch.tokens[index];
      branch.tokens[index] = { ...line, source: old?.source ?? "prompt" };
      if (branch === branches.current) {
        if (old) this.strip.update(index, branch.tokens[index]);
        else this.strip.append(branch.tokens[index]);
        if (index === this.selected) this.drawPanel();
      }
      index += 1;
    }, { signal });
    branch.model = model();
    if (body.text !== undefined) branch.text = body.text;
    this.drawButtons();
    this.drawText();
  }

  /** Shows the current branch, and computes its distributions where they are of another checkpoint, or missing. */
  show() {
    this.draw();
    if (branches.current.tokens.length) this.refresh();
    else this.begin(true);
  }

  refresh() {
    const branch = branches.current;
    const known = branch.model === model() && branch.tokens.every(({ expected }) => expected !== undefined);
    if (!known) this.work((signal) => this.expect(branch, { ids: branch.tokens.map(({ id }) => id) }, signal));
  }

  // ----- writing -----

  /** Writes from the prompt; what was written before stays as a branch. */
  write() {
    if (this.prompt.value !== prompt) change({ text: this.prompt.value });
    const start = branches.current.tokens.findIndex(({ source }) => source !== "prompt");
    if (start < 0) return this.generate(0);
    const first = branches.all.findIndex((branch) => branch.at === null);
    const tokens = branches.all[first].tokens;
    const end = tokens.findIndex(({ source }) => source !== "prompt");
    this.remember();
    this.addBranch(tokens.slice(0, end < 0 ? tokens.length : end), first);
    return this.generate(0, false);
  }

  more() {
    this.generate(branches.current.tokens.filter(({ source }) => source !== "prompt").length);
  }

  /** Continues from the token at `index`, with `candidate` in its place. */
  branch(index, candidate) {
    const { tokens } = branches.current;
    this.remember();
    this.addBranch([...tokens.slice(0, index), { ...tokens[index], ...candidate, source: "chosen" }], branches.index);
    this.select(index);
    this.generate(branches.current.tokens.filter(({ source }) => source !== "prompt").length, false);
  }

  addBranch(tokens, from) {
    branches.add(branchOf(tokens, { from, at: tokens.length - 1, model: branches.all[from].model }));
    this.draw();
  }

  /** Generates at the end of the current branch, with the seed moved by the number of tokens written so far. */
  async generate(drawn, remember = true) {
    if (remember) this.remember();
    const branch = branches.current;
    const ids = branch.tokens.map(({ id }) => id);
    const mine = (this.generation = {});
    const began = performance.now();
    let count = 0;
    let end = "stopped";
    branch.model ||= model();
    this.setWriting(true);
    await this.work(async (signal) => {
      await stream("/api/generate", { ...(ids.length ? { ids } : { text: prompt }), ...this.controls.request(drawn) },
        (line) => {
          if (signal.aborted) return;
          if (line.prompt) this.takePrompt(branch, line);
          else if (line.expected) {
            const { piece, ...token } = line;
            branch.tokens.push({ ...token, source: "drawn" });
            this.strip.append(branch.tokens.at(-1));
            count += 1;
            branch.text += piece;
          } else {
            branch.text += line.piece;
            end = line.end === "stop" ? "the model ended the text" : "";
          }
          this.drawText();
        }, { signal });
    });
    const seconds = (performance.now() - began) / 1000;
    if (mine !== this.generation || branch !== branches.current) return;
    const speed = `${count} tokens, ${(count / seconds).toFixed(1)} per second`;
    this.message.textContent = count ? [speed, end].filter(Boolean).join(", ") : "";
    this.setWriting(false);
    this.drawBranches();
    if (!this.status.querySelector(".error")) this.refresh();
  }

  /** The tokens of the prompt, which are not known yet where writing begins before they are analysed. */
  takePrompt(branch, line) {
    branch.text = line.text;
    for (const token of line.prompt.slice(branch.tokens.length)) {
      branch.tokens.push({ ...token, source: "prompt" });
      this.strip.append(branch.tokens.at(-1));
    }
  }

  stop() {
    this.work.stop();
    this.setWriting(false);
  }

  undo() {
    this.stop();
    const note = branches.undo();
    prompt = note.prompt;
    this.selected = note.selected;
    change({ text: prompt });
    this.show();
  }

  setWriting(writing) {
    this.writing = writing;
    this.drawButtons();
  }

  // ----- drawing -----

  select(index) {
    this.selected = index;
    this.strip.select(index);
    this.drawPanel();
  }

  draw() {
    this.strip.draw(branches.current.tokens);
    this.strip.select(this.selected);
    this.drawText();
    this.drawPanel();
    this.drawBranches();
    this.drawButtons();
  }

  /** A slider has moved: colours, bars and marks follow, without the server. */
  reshape() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.strip.reshape();
      this.drawPanel();
    });
  }

  drawText() {
    this.joined.textContent = branches.current.text;
  }

  drawButtons() {
    const { write, more, stop, undo } = this.buttons;
    write.disabled = more.disabled = this.writing;
    more.disabled ||= !branches.current.tokens.some(({ source }) => source !== "prompt");
    stop.disabled = !this.writing;
    undo.disabled = !branches.canUndo;
  }

  drawPanel() {
    const token = branches.current.tokens[this.selected];
    if (!token) {
      this.panel.replaceChildren(h("p", { class: "note" }, "Select a token to see the distribution that it was drawn from."));
      return;
    }
    const focus = [...this.panel.querySelectorAll("button")].indexOf(document.activeElement);
    const choose = (candidate) => this.branch(this.selected, candidate);
    this.panel.replaceChildren(...panel(token, this.selected, this.controls.options(), choose));
    if (focus >= 0) this.panel.querySelectorAll("button")[focus]?.focus();
  }

  drawBranches() {
    this.list.replaceChildren(...branches.all.map((branch, index) => {
      const { tokens, from, at } = branch;
      const start = at === null ? tokens.findIndex(({ source }) => source !== "prompt") : at;
      const words = start < 0 ? "" : tokens.slice(start, start + 40).map(({ text }) => tokenLabel(text)).join("");
      const origin = at === null || from === null ? "from the prompt" : `from ${from + 1}, at token ${at + 1}`;
      return h("button", {
        "aria-pressed": String(index === branches.index),
        onclick: () => this.choose(index),
      }, h("b", {}, String(index + 1)), ` ${origin} `, h("span", { class: "mono" }, words));
    }));
  }

  choose(index) {
    this.stop();
    hideTip();
    branches.choose(index);
    this.show();
  }
}
