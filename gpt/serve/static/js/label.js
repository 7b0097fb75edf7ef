// The label that a classifier is to predict in the views of learning: the reader's choice, for the run that is shown.

import { state } from "./state.js";
import { field, h } from "./ui.js";

let chosen = null; // { run, label }

/** The label that the reader has chosen; null: none, and the server takes the most probable one. */
export function chosenLabel() {
  return chosen?.run === state.run ? chosen.label : null;
}

/** { element, show(labels, label) }: a list of a classifier's labels, hidden for other models; calls `onChoose()`. */
export function labelField(onChoose) {
  const select = h("select", {});
  const element = field("label to predict", select);
  element.hidden = true;
  select.addEventListener("change", () => {
    chosen = { run: state.run, label: select.value };
    onChoose();
  });
  return {
    element,
    show(labels, label) {
      element.hidden = !labels.length;
      select.replaceChildren(...labels.map((name) => h("option", { value: name }, name)));
      select.value = label ?? "";
    },
  };
}

/** The probability of each label as a bar; with `before`, also what it was. */
export function labelBars(labels, probabilities, { label, before = null, form }) {
  return h("div", { class: "label-rows" }, labels.map((name, i) => {
    const bar = h("span", { class: "bar-fill" });
    bar.style.width = `${100 * (Number.isFinite(probabilities[i]) ? probabilities[i] : 0)}%`;
    const now = form(probabilities[i]);
    return h("div", { class: `label-row${name === label ? " wanted" : ""}` },
      h("span", { class: "label-name" }, name === label ? `${name} (to predict)` : name),
      h("span", { class: "bar-track" }, bar),
      h("span", { class: "mono" }, before ? `${form(before[i])} → ${now}` : now));
  }));
}
