// The most probable next tokens as bars, in the tooltip of a token and in the panel of the selected one.

import { shapeOf } from "../distribution.js";
import { h, percent, tokenText } from "../ui.js";

/** A probability as text: small ones keep two significant digits. */
export function share(p) {
  if (p === 0) return "0 %";
  if (p < 1e-8) return "<0.000001 %";
  const two = { minimumSignificantDigits: 2, maximumSignificantDigits: 2 };
  return p < 0.0005 ? `${(100 * p).toLocaleString("en", two)} %` : percent(p);
}

/** The ten best tokens, and the token of the text where it is not among them: [{ candidate, probability, inText }]. */
function candidates(token, shaped) {
  const { top } = token.expected;
  const all = top.some(({ id }) => id === token.id) ? top : [...top, token];
  return all.map((candidate) => ({
    candidate,
    probability: shaped.probability(candidate.logit, candidate.rank),
    inText: candidate.id === token.id,
  }));
}

/** Where the token of the text comes from, in one word. */
export const ORIGIN = { prompt: "prompt", drawn: "drawn", chosen: "chosen" };

/** Rows of bars: the longest is the most probable token's. With `onChoose`, the rows are buttons. */
export function bars(token, options, onChoose = null) {
  const shaped = shapeOf(token, options);
  const rows = candidates(token, shaped);
  const longest = Math.max(...rows.map(({ probability }) => probability), Number.MIN_VALUE);
  return h("div", { class: "bars", role: "group", "aria-label": "the most probable tokens" }, rows.map(({ candidate, probability, inText }) => {
    const bar = h("span", { class: "bar-fill" });
    bar.style.width = `${(100 * probability) / longest}%`;
    const excluded = candidate.rank > shaped.kept;
    const cells = [
      h("span", { class: excluded ? "name excluded" : "name" }, tokenText(candidate.text)),
      h("span", { class: "bar-track" }, bar),
      h("span", { class: "value" }, excluded ? "excluded" : share(probability)),
      h("span", { class: "mark" }, inText ? `◀ ${ORIGIN[token.source]}` : ""),
    ];
    if (!onChoose) return h("div", { class: "bar-row" }, cells);
    return h("button", { class: "bar-row", disabled: inText, onclick: () => onChoose(candidate) }, cells);
  }));
}
