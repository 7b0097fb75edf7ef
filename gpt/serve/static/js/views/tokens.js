// The tokens of the text, with their ids.

import { post } from "../api.js";
import { state, subscribe } from "../state.js";
import { h, latest, tokenText } from "../ui.js";

export default {
  id: "tokens",
  title: "Tokens",
  section: "Look inside",
  text: true, // shows the page's text field above the view
  tasks: ["pretrain", "instruct", "classify"],

  mount(root) {
    const list = h("ol", { class: "token-list" });
    const summary = h("p", { class: "note" });
    const work = latest(root);
    root.append(
      h("h2", {}, "Tokens"),
      h("p", {}, "The model reads numbers. Its tokenizer cuts the text into tokens and gives each its id."),
      list, summary,
    );
    const update = () => work(async (signal) => {
      const { tokens } = await post("/api/tokens", { text: state.text }, { signal });
      list.replaceChildren(...tokens.map(({ id, text }) =>
        h("li", {}, h("span", { class: "token" }, tokenText(text)), h("span", { class: "id" }, String(id)))));
      summary.textContent = `${state.text.length} characters, ${tokens.length} tokens`;
    });
    update();
    return subscribe((changed) => {
      if (["run", "step", "session", "text"].some((name) => changed.has(name))) update();
    });
  },
};
