// Chat with a model that was fine-tuned on instructions. The conversation is kept here; each request sends all of it.

import { post, stream } from "../api.js";
import { state, subscribe } from "../state.js";
import { field, h, showError, showOnce } from "../ui.js";

const talks = new Map(); // by run: the turns, so that they are there again after another view
const settings = { temperature: 0, top_p: 1, seed: 1337, max_new_tokens: 256 };
const ENDS = {
  context: "The answer ends here because the context is full.",
  limit: "The answer ends here because it has the longest allowed length.",
  stopped: "You stopped this answer.",
};

export default {
  id: "chat",
  title: "Chat",
  tasks: ["instruct"],

  mount(root) {
    const view = new Chat(root);
    const end = subscribe((changed) => {
      if (changed.has("run")) view.begin();
    });
    return () => {
      end();
      view.stop();
    };
  },
};

class Chat {
  constructor(root) {
    this.root = root;
    this.log = h("div", { class: "chat-log", role: "log", "aria-label": "Conversation", tabindex: "0" });
    this.about = h("p", { class: "note" });
    this.question = h("textarea", { rows: 2, maxlength: "20000", placeholder: "Name three colours of the rainbow." });
    this.input = h("textarea", { rows: 1, maxlength: "20000", placeholder: "A text that the question is about." });
    this.send = h("button", { class: "primary", type: "submit" }, "Send");
    this.halt = h("button", { type: "button", onclick: () => this.stop(), disabled: true }, "Stop");
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.ask();
    });
    const form = h("form", { class: "chat-form", onsubmit: (event) => { event.preventDefault(); this.ask(); } },
      field("Question (Enter sends, Shift+Enter begins a new line)", this.question),
      field("Input, optional", this.input),
      h("div", { class: "row" }, this.send, this.halt,
        h("button", { type: "button", onclick: () => this.clear() }, "New conversation")));
    root.append(
      h("h2", {}, "Chat"),
      h("p", {}, "The model continues a text: your question in the format of its training data, after as many earlier "
        + "turns as it was trained to see. Its answer ends where it predicts the end of the text."),
      this.about, this.controls(), this.log, form);
    showOnce(root, this.begin());
  }

  controls() {
    const slider = (name, label, low, high, step, text) => {
      const control = h("input", { type: "range", min: low, max: high, step });
      const shown = h("output", { class: "mono" }, text(settings[name]));
      control.value = settings[name];
      control.addEventListener("input", () => {
        settings[name] = Number(control.value);
        shown.textContent = text(settings[name]);
      });
      return field(label, control, shown);
    };
    const integer = (name, label, low, high) => {
      const control = h("input", { type: "number", min: low, max: high, step: "1" });
      control.value = settings[name];
      control.addEventListener("change", () => {
        if (control.checkValidity() && control.value !== "") settings[name] = Number(control.value);
        control.value = settings[name];
      });
      return field(label, control);
    };
    this.history = h("input", { type: "number", min: "0", max: "99", step: "1" });
    return h("div", { class: "row chat-settings" },
      slider("temperature", "temperature", "0", "2", "0.05", (x) => (x === 0 ? "0: most probable" : x.toFixed(2))),
      slider("top_p", "top-p (probability)", "0.05", "1", "0.05", (x) => x.toFixed(2)),
      integer("seed", "seed", "0", "4294967295"),
      integer("max_new_tokens", "longest answer (tokens)", "1", "4096"),
      field("earlier turns shown", this.history));
  }

  get turns() {
    if (!talks.has(state.run)) talks.set(state.run, []);
    return talks.get(state.run);
  }

  /** Shows the conversation with the chosen run, and how the run was trained. */
  async begin() {
    this.stop();
    const run = state.run;
    this.about.textContent = "";
    this.draw();
    try {
      const { turns, context } = await post("/api/chat/about");
      if (run !== state.run) return;
      this.history.value = turns - 1;
      this.about.textContent = (turns === 1
        ? "It was trained on single turns, so it sees each question separately; show it earlier turns to try whether it uses them."
        : `It was trained on conversations of up to ${turns} turns, so it sees up to ${turns - 1} earlier ones.`)
        + ` Question, earlier turns and answer share a context of ${context.toLocaleString("en")} tokens.`;
      this.root.querySelector(":scope > .error")?.remove();
    } catch (error) {
      if (run === state.run) showError(this.root, error);
    }
  }

  draw() {
    const empty = h("p", { class: "note" }, "No question yet.");
    this.log.replaceChildren(...(this.turns.length ? this.turns.map((turn) => turn.element) : [empty]));
    this.log.scrollTop = this.log.scrollHeight;
  }

  clear() {
    this.stop();
    talks.set(state.run, []);
    this.draw();
    this.question.focus();
  }

  stop() {
    this.controller?.abort();
  }

  async ask() {
    const content = this.question.value.trim();
    if (!content || this.controller) return;
    const turns = this.turns;
    const messages = turns.flatMap(({ question, text, ids }) => [question, { role: "assistant", content: text, ids }]);
    const turn = new Turn({ role: "user", content, input: this.input.value.trim() });
    const history = this.history.value === "" ? null : Number(this.history.value);
    turns.push(turn);
    this.question.value = this.input.value = "";
    this.draw();
    this.root.querySelector(":scope > .error")?.remove();
    this.controller = new AbortController();
    this.send.disabled = true;
    this.halt.disabled = false;
    this.log.setAttribute("aria-busy", "true");
    try {
      await stream("/api/chat", { ...settings, history, messages: [...messages, turn.question] }, (line) => {
        const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
        turn.read(line);
        if (atEnd) this.log.scrollTop = this.log.scrollHeight;
      }, { signal: this.controller.signal });
    } catch (error) {
      if (error.name === "AbortError") turn.read({ end: "stopped" });
      else this.fail(turns, turn, error);
    } finally {
      this.controller = null;
      this.send.disabled = false;
      this.halt.disabled = true;
      this.log.removeAttribute("aria-busy");
      this.log.scrollTop = this.log.scrollHeight;
    }
  }

  /** An answer that failed: what is there of it stays; a question without any answer is taken back. */
  fail(turns, turn, error) {
    showError(this.root, error);
    if (turn.ids.length) return;
    turns.splice(turns.indexOf(turn), 1);
    this.question.value = turn.question.content;
    this.input.value = turn.question.input;
    this.draw();
  }
}

/** A question and its answer, as the page shows them. */
class Turn {
  constructor(question) {
    Object.assign(this, { question, text: "", ids: [] });
    this.answer = h("div", { class: "bubble-text" });
    this.notes = h("div", { class: "note" });
    const input = question.input
      ? h("div", { class: "bubble-input" }, h("span", { class: "faint" }, "Input"), h("div", { class: "bubble-text" }, question.input))
      : null;
    this.element = h("div", { class: "turn" },
      h("div", { class: "bubble user" }, h("span", { class: "who" }, "You"), h("div", { class: "bubble-text" }, question.content), input),
      h("div", { class: "bubble model" }, h("span", { class: "who" }, "Model"), this.answer, this.notes));
  }

  /** A line of the server's answer. */
  read(line) {
    if (line.prompt !== undefined) this.describe(line);
    if (line.ids) {
      this.ids.push(...line.ids);
      this.text += line.piece;
      this.answer.textContent = this.text;
    }
    if (line.end) {
      if (!this.text) this.answer.append(h("span", { class: "faint" }, "(no text)"));
      if (ENDS[line.end]) this.notes.append(h("p", {}, ENDS[line.end]));
    }
  }

  describe({ prompt, prompt_tokens: size, dropped, seen, hidden }) {
    const turns = (n) => (n === 1 ? "1 earlier turn" : `${n} earlier turns`);
    if (dropped) this.notes.append(h("p", {}, `The context is full: ${turns(dropped)} did not fit and the model does not see ${dropped === 1 ? "it" : "them"}.`));
    const parts = [`${size.toLocaleString("en")} tokens`];
    if (seen) parts.push(`with ${turns(seen)}`);
    if (hidden) parts.push(`${turns(hidden)} not shown to it`);
    const at = state.step ?? null;
    if (at !== null) parts.push(`checkpoint of step ${at.toLocaleString("en")}`);
    this.notes.append(h("details", {}, h("summary", {}, `What the model read: ${parts.join(", ")}`), h("pre", { class: "prompt", tabindex: "0" }, prompt)));
  }
}
