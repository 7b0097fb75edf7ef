// The tokens of the text: ids, bytes, and which of them are special.

import { post } from "../api.js";
import { state, subscribe } from "../state.js";
import { h, hideTip, latest, showOnce, tokenLabel, tokenText, tooltip } from "../ui.js";

const KINDS = {
  char: "Each character is a token.",
  word: "Each word and each punctuation mark is a token.",
  bpe: "Frequent sequences of bytes were merged into tokens (byte-pair encoding); a space belongs to the word after it.",
};

const PARTIAL = "A token such as \\xc3 is a byte that is only a part of a character: in UTF-8 a character has one to four bytes.";

export default {
  id: "tokens",
  title: "Tokens",
  section: "Look inside",
  text: true, // shows the page's text field above the view
  tasks: ["pretrain", "instruct", "classify"],

  mount(root) {
    const list = h("ol", { class: "token-list", "aria-label": "tokens; arrow keys move from one to the next" });
    const kind = h("p"), counts = h("p", { class: "counts" }), special = h("p", { class: "note" }), partial = h("p", { class: "note" });
    const ids = h("pre", { class: "scroll ids", tabindex: "0", "aria-label": "the ids" });
    const work = latest(root);
    root.append(
      h("h2", {}, "Tokens"),
      h("p", {}, "A model reads numbers, not letters. Its tokenizer cuts the text into tokens; each has an id, a row of the ",
        "embedding table. Point at a token to see its bytes; equal tokens are marked with it."),
      kind, counts, list, partial, special,
      h("h3", {}, "What the model receives"), ids,
    );
    const update = () => work(async (signal) => {
      const found = await post("/api/tokens", { text: state.text }, { signal });
      kind.textContent = KINDS[found.kind] ?? "";
      counts.textContent = summary(found);
      list.replaceChildren(...items(found.tokens));
      partial.textContent = found.tokens.some(({ text }) => /\\x[0-9a-f]{2}/.test(text)) ? PARTIAL : "";
      special.textContent = specialNote(found.special_tokens);
      ids.textContent = `[${found.tokens.map(({ id }) => id).join(", ")}]`;
    });
    showOnce(root, update());
    const end = subscribe((changed) => {
      if (["run", "step", "session", "text"].some((name) => changed.has(name))) update();
    });
    return () => { end(); work.stop(); hideTip(); };
  },
};

function items(tokens) {
  const buttons = tokens.map((token, i) => {
    const button = h("button", {
      type: "button", class: token.special ? "special" : null, tabindex: i ? "-1" : "0",
      onkeydown: (event) => move(event, i),
    }, h("span", { class: "token" }, tokenText(token.text)), h("span", { class: "id" }, String(token.id)),
    token.special ? h("span", { class: "skip" }, " special token") : null);
    tooltip(button, () => details(token, i, tokens));
    const mark = (on) => () => buttons.forEach((other, k) => other.classList.toggle("equal", on && tokens[k].id === token.id));
    button.addEventListener("pointerenter", mark(true));
    button.addEventListener("pointerleave", mark(false));
    button.addEventListener("focus", mark(true));
    button.addEventListener("blur", mark(false));
    return button;
  });
  const move = (event, i) => {
    const to = buttons[{ ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: buttons.length - 1 }[event.key]];
    if (!to) return;
    event.preventDefault();
    buttons[i].tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  };
  return buttons.map((button) => h("li", {}, button));
}

function details({ id, text, bytes, special }, i, tokens) {
  const times = tokens.filter((other) => other.id === id).length;
  const length = bytes.split(" ").length;
  return h("div", {},
    h("div", { class: "mono" }, tokenLabel(text)),
    h("div", {}, `position ${i}, id ${id}, ${times === 1 ? "once" : `${times} times`} in this text`),
    special ? h("div", {}, "a special token: it stands for a mark such as the end of a text, not for its letters")
      : h("div", {}, `${length} byte${length === 1 ? "" : "s"} of UTF-8: `, h("span", { class: "mono" }, bytes)));
}

function summary({ tokens, bytes, vocab_size: size, context_length: context }) {
  const characters = [...state.text].length;
  const distinct = new Set(tokens.map(({ id }) => id)).size;
  const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  return `${counted(characters, "character")} (${counted(bytes, "byte")}) are ${counted(tokens.length, "token")}, `
    + `${distinct.toLocaleString("en")} of them different: ${(characters / tokens.length).toFixed(2)} characters per token. `
    + `The vocabulary has ${counted(size, "token")}; the model reads at most ${counted(context, "token")} at once.`;
}

function specialNote(special) {
  if (!special.length) return "This vocabulary has no special tokens.";
  const names = special.map(({ text, id }) => `${tokenLabel(text)} (id ${id})`).join(", ");
  return `Special tokens of this vocabulary: ${names}. A special token is one id that does not stand for letters but for a `
    + "mark, such as the end of a text. Typed in the field above it is read as that one token.";
}
