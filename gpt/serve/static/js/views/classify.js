// A classifier: the probability of each label, and by gradient x input which words decided.

import { post } from "../api.js";
import { change, state, subscribe } from "../state.js";
import { cssColor, h, latest, number, onTheme, percent, showOnce, tokenText, tooltip } from "../ui.js";

const STRONGEST = 0.5; // of the colour, so that text on it is readable in both themes
const LEFT_OUT = 8;
let label = null; // the label to explain; null: the most probable one
let single = false; // tokens instead of words

export default {
  id: "classify",
  title: "Classify",
  text: true,
  tasks: ["classify"],

  mount(root) {
    const examples = h("div", { class: "row examples" });
    const result = h("div", {});
    root.append(
      h("h2", {}, "Classify"),
      h("p", {}, "The model reads the text and gives each label a probability. Below, each word is coloured by how much "
        + "it speaks for or against a label: choose the label by its row."),
      examples, result);
    const work = latest(result);
    let redraw = () => {};
    const update = () => work(async (signal) => {
      const ask = (count) => post("/api/classify", { text: state.text, label, left_out: count }, { signal });
      const found = { ...(await ask(0)), complete: false };
      redraw = () => draw(result, found, choose);
      redraw();
      Object.assign(found, await ask(LEFT_OUT), { complete: true });
      result.querySelector(".left-out").replaceWith(leftOut(found)); // the controls above it stay: a click may be on one
    });
    const choose = (name) => {
      label = name;
      update();
    };
    const offer = async () => {
      const run = state.run;
      const answer = await post("/api/classify/examples").catch(() => ({ examples: [] }));
      if (run !== state.run) return;
      examples.replaceChildren(...(answer.examples.length ? [h("span", { class: "faint" }, "From the test set:")] : []),
        ...answer.examples.map(({ label: name, text }) =>
          h("button", { class: "example", title: text, onclick: () => change({ text }) }, `${name}: ${text.slice(0, 24)}…`)));
    };
    showOnce(root, offer(), update());
    const endTheme = onTheme(() => redraw());
    const unsubscribe = subscribe((changed) => {
      if (changed.has("run")) {
        label = null;
        offer();
      }
      if (["run", "step", "session", "text"].some((name) => changed.has(name))) update();
    });
    return () => {
      endTheme();
      unsubscribe();
    };
  },
};

function draw(root, found, choose) {
  const focus = document.activeElement?.dataset?.key; // the same control has the focus again
  root.querySelectorAll(":scope > :not(.error)").forEach((element) => element.remove());
  root.append(labelRows(found, choose), decidingWords(found, () => draw(root, found, choose)), leftOut(found), meaning(found));
  if (focus) root.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
}

function key(element, name) {
  element.dataset.key = name;
  return element;
}

function labelRows(found, choose) {
  const rows = found.labels.map((name, i) => {
    const bar = h("span", { class: "bar-fill" });
    bar.style.width = `${100 * found.probabilities[i]}%`;
    return key(h("button", { class: "label-row", "aria-pressed": String(name === found.label), onclick: () => choose(name) },
      h("span", { class: "label-name" }, name),
      h("span", { class: "bar-track" }, bar),
      h("span", { class: "mono" }, percent(found.probabilities[i]))), `label ${name}`);
  });
  const cut = found.cut
    ? h("p", { class: "note" }, `The model reads at most ${found.tokens.length} tokens, as in training: the last ${found.cut} of the text are cut.`)
    : null;
  return h("section", { class: "panel", "aria-label": "Probabilities" }, h("h3", {}, "Probability of each label"), h("div", { class: "label-rows" }, rows), cut);
}

function decidingWords(found, redraw) {
  const parts = single
    ? found.tokens.map((text, i) => ({ text, value: found.values[i], without: null }))
    : found.words.map(({ text, value }, i) => ({ text: text.trim() || text, value, get without() { return found.words[i].without; } }));
  const largest = Math.max(...parts.map(({ value }) => Math.abs(value)), 1e-12);
  const toggle = key(h("input", { type: "checkbox", onchange: () => { single = !single; redraw(); } }), "single");
  toggle.checked = single;
  const list = h("ol", { class: "deciding" }, parts.map((part, i) => {
    const box = h("button", { class: "token" }, h("span", {}, tokenText(part.text)), h("span", { class: "value" }, signed(part.value)));
    box.style.backgroundColor = color(part.value / largest);
    tooltip(box, () => note(part, found));
    return h("li", {}, key(box, `word ${i}`));
  }));
  return h("section", { class: "panel", "aria-label": "Deciding words" },
    h("h3", {}, `What speaks for “${found.label}”`),
    legend(largest, found.label),
    list,
    h("label", { class: "field" }, toggle, "single tokens instead of words"));
}

function legend(largest, name) {
  const canvas = h("canvas", { class: "scale", width: 120, height: 12, role: "img", "aria-label": "colour scale" });
  const context = canvas.getContext("2d");
  for (let x = 0; x < 120; x++) {
    context.fillStyle = color((x - 60) / 60);
    context.fillRect(x, 0, 1, 12);
  }
  return h("p", { class: "row note" }, h("span", {}, `against ${name}: ${signed(-largest)}`), canvas,
    h("span", {}, `${signed(largest)}: for ${name}`), h("span", {}, "(gradient × input, in logits)"));
}

function leftOut(found) {
  const at = found.labels.indexOf(found.label);
  const rows = found.words.filter((word) => word.without !== null)
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value))
    .map((word) => h("tr", {},
      h("td", { class: "mono" }, tokenText(word.text.trim())),
      h("td", { class: "number mono" }, signed(word.value)),
      h("td", { class: "number mono" }, percent(word.without)),
      h("td", { class: "number mono" }, points(word.without - found.probabilities[at]))));
  const head = ["word", "gradient × input", "without it", "change"];
  const table = h("div", { class: "scroll", tabindex: "0" }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { class: i ? "number" : null, scope: "col" }, text)))),
    h("tbody", {}, rows)));
  const empty = found.complete ? "A text of one word has nothing to leave out." : "The strongest words are left out one at a time…";
  return h("section", { class: "panel left-out", "aria-label": "Check" },
    h("h3", {}, "Check: the strongest words left out, one at a time"),
    h("p", { class: "note" }, `With all words the probability of ${found.label} is ${percent(found.probabilities[at])}. The table has it without each word, `
      + "and the change in percentage points: without a word that speaks for the label it should fall."),
    rows.length ? table : h("p", { class: "note" }, empty));
}

function meaning(found) {
  const total = found.values.reduce((sum, value) => sum + value, 0);
  const padding = found.padding_tokens
    ? ` The ${found.padding_tokens} padding tokens after the text, at which this model may read, add up to ${signed(found.padding)}.`
    : "";
  return h("details", { class: "note" }, h("summary", {}, "What these numbers say, and what they do not"),
    h("p", {}, `The score of ${found.label} is its logit minus the mean of the other logits, here ${signed(found.score)}. `
      + "The gradient of the score with respect to a token's embedding, multiplied with the embedding and summed over its "
      + "channels, estimates how much the score would fall if the embedding became zero. "
      + `The words add up to ${signed(total)}.${padding}`),
    h("p", {}, "It is a first-order estimate: the values need not add up to the score, words act together, and a "
      + "confident model changes little with any single word. It shows what the model reacts to, not whether that is a good reason."));
}

function note(part, found) {
  const parts = [h("div", { class: "mono" }, tokenText(part.text)),
    h("div", {}, `${signed(part.value)}: speaks ${part.value >= 0 ? "for" : "against"} ${found.label}`)];
  if (part.without !== null) parts.push(h("div", {}, `probability of ${found.label} without it: ${percent(part.without)}`));
  return parts;
}

function color(share) {
  return d3.interpolateRgb(cssColor("background"), cssColor(share < 0 ? "cold" : "warm"))(STRONGEST * Math.abs(share));
}

function signed(value) {
  return (value < 0 ? "−" : "+") + number(Math.abs(value), 2);
}

function points(change) {
  if (Math.abs(change) < 0.0005) return "0.0";
  return `${change < 0 ? "−" : "+"}${(100 * Math.abs(change)).toFixed(1)}`;
}
