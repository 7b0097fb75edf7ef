// A text as a row of tokens: each has its probability as colour and as a column, and the ten best tokens on hover.

import { shapeOf } from "../distribution.js";
import { h, hideTip, tokenLabel, tokenText, tooltip } from "../ui.js";
import { bars, share } from "./bars.js";

/** How strong the colour of a probability is: its square root, so that 1 % and 10 % look different. */
const level = (p) => Math.sqrt(p).toFixed(3);

/**
 * The strip: { element, draw(tokens), append(token), reshape(), select(index) }. `options()` gives temperature, top-k
 * and top-p; `onSelect(index)` is called when a token is chosen. One token is in the order of the Tab key; arrows, Home
 * and End lead to the others.
 */
export function makeStrip({ options, onSelect }) {
  const element = h("div", { class: "strip", role: "group", "aria-label": "tokens of the text; arrow keys move" });
  let tokens = [];
  let buttons = [];
  let reachable = 0; // by the Tab key

  const paint = (index) => {
    const token = tokens[index], button = buttons[index];
    const shaped = shapeOf(token, options());
    const kept = shaped !== null && token.rank <= shaped.kept;
    button.style.setProperty("--p", level(shaped?.own ?? 0));
    button.classList.toggle("excluded", shaped !== null && !kept);
    button.classList.toggle("unknown", shaped === null);
    const about = shaped === null ? "no probability" : kept ? share(shaped.own) : "excluded";
    button.setAttribute("aria-label", `${tokenLabel(token.text)}, ${about}`);
  };

  const reach = (index) => {
    buttons[reachable]?.setAttribute("tabindex", "-1");
    reachable = Math.max(0, Math.min(index, buttons.length - 1));
    buttons[reachable]?.setAttribute("tabindex", "0");
  };

  const append = (token) => {
    const index = tokens.push(token) - 1;
    const button = h("button", {
      class: `token from-${token.source}`, tabindex: index === reachable ? "0" : "-1", "aria-pressed": "false",
    }, tokenText(token.text));
    button.addEventListener("click", () => onSelect(index));
    button.addEventListener("focus", () => reach(index));
    tooltip(button, () => about(tokens[index], options()));
    buttons.push(button);
    paint(index);
    element.append(button, ...(token.text.includes("\n") ? [h("br")] : []));
  };

  element.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: reachable + 1, ArrowLeft: reachable - 1, Home: 0, End: buttons.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    reach(steps[event.key]);
    buttons[reachable].focus();
  });

  return {
    element,
    append,
    draw(all) {
      hideTip();
      element.replaceChildren();
      [tokens, buttons] = [[], []];
      reachable = Math.max(0, Math.min(reachable, all.length - 1));
      all.forEach(append);
    },
    /** Replaces the token at `index` by the same one with another distribution. */
    update(index, token) {
      tokens[index] = token;
      paint(index);
    },
    reshape: () => tokens.forEach((_, index) => paint(index)),
    select(index) {
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
      if (index !== null && index < buttons.length) reach(index);
    },
  };
}

/** The content of a token's tooltip. */
function about(token, options) {
  const shaped = shapeOf(token, options);
  if (shaped === null) return "No prediction was made here.";
  return h("div", {},
    h("div", {}, h("b", { class: "mono" }, tokenText(token.text)), ` ${share(shaped.own)}, rank ${token.rank}`),
    bars(token, options));
}

/** What the colours and marks of a strip mean. */
export function legend() {
  const swatch = (p) => {
    const box = h("span", { class: "token swatch", "aria-hidden": "true" }, "a");
    box.style.setProperty("--p", level(p));
    return h("span", {}, box, ` ${100 * p} %`);
  };
  return h("div", { class: "legend note" },
    h("span", {}, "probability of the token:"), [0, 0.01, 0.1, 0.5, 1].map(swatch),
    h("span", {}, h("span", { class: "token from-prompt" }, "prompt")),
    h("span", {}, h("span", { class: "token from-drawn" }, "drawn by the model")),
    h("span", {}, h("span", { class: "token from-chosen" }, "chosen by you")),
    h("span", {}, h("span", { class: "token excluded" }, "a"), " excluded by top-k or top-p"));
}
