// A field that finds tokens by their text or id.

import { post } from "./api.js";
import { debounce, field, h, latest, tokenText } from "./ui.js";

/** A button that shows a token; `more` follows its text, and `pressed` says whether it is the chosen one. */
export function tokenButton({ id, text }, onPick, { more = null, pressed = null } = {}) {
  return h("button", {
    type: "button", class: "token pick", "aria-pressed": pressed === null ? null : String(pressed), title: `id ${id}`,
    onclick: () => onPick(id, text),
  }, tokenText(text), more && h("span", { class: "faint" }, more));
}

/** { element, clear() }: calls `onPick(id, text)` with the token that the reader chooses among those found. */
export function tokenPicker(label, onPick) {
  const input = h("input", { type: "search", maxlength: "200", autocomplete: "off", spellcheck: "false" });
  const found = h("div", { class: "picker-found", role: "group", "aria-label": "tokens found" });
  const element = h("div", { class: "picker" }, field(label, input), found);
  const work = latest(element);
  const pick = (id, text) => {
    clear();
    onPick(id, text);
  };
  const search = () => work(async (signal) => {
    if (!input.value) return found.replaceChildren();
    const { tokens } = await post("/api/embeddings/find", { query: input.value }, { signal });
    const buttons = tokens.map((token) => tokenButton(token, pick, { more: ` ${token.id}` }));
    const none = h("span", { class: "note" }, "no token has this text or id");
    found.replaceChildren(...(buttons.length ? buttons : [none]));
  });
  const clear = () => {
    work.stop();
    input.value = "";
    found.replaceChildren();
  };
  input.addEventListener("input", debounce(search, 150));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") found.querySelector("button")?.click();
    if (event.key === "Escape") clear();
  });
  return { element, clear };
}
