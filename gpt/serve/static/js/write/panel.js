// The distribution from which the selected token was drawn.

import { shapeOf } from "../distribution.js";
import { h, number, tokenText } from "../ui.js";
import { bars, ORIGIN, share } from "./bars.js";

/** The content of the panel for the token at `index`; `onChoose(candidate)` is called for an alternative. */
export function panel(token, index, options, onChoose) {
  const heading = h("h3", {}, "Token ", String(index + 1), ": ", h("span", { class: "token mono" }, tokenText(token.text)));
  const shaped = shapeOf(token, options);
  if (shaped === null) {
    const reason = token.expected === undefined
      ? "Its distribution is not computed yet."
      : index === 0
        ? "The first token has no distribution: the model predicts from the tokens before it."
        : "The model does not predict this token: it is before the part of the text that fits into its context.";
    return [heading, h("p", { class: "note" }, reason)];
  }
  const { vocab_size: size } = token.expected;
  const facts = [
    ["probability, these settings", token.rank > shaped.kept ? "0 % (excluded)" : share(shaped.own)],
    ["probability, temperature 1", share(token.probability)],
    ["rank", `${token.rank.toLocaleString("en")} of ${size.toLocaleString("en")}`],
    ["surprise, −log₂ at temperature 1", `${number(token.surprise)} bits`],
    ["token id, origin", `${token.id}, ${ORIGIN[token.source]}`],
  ];
  const cannot = size - shaped.kept;
  const limits = cannot === 0
    ? `Each of the ${size.toLocaleString("en")} tokens can be drawn.`
    : `${shaped.kept.toLocaleString("en")} of ${size.toLocaleString("en")} tokens can be drawn; the others are excluded.`;
  return [
    heading,
    h("table", { class: "facts" }, h("tbody", {}, facts.map(([name, value]) =>
      h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, value))))),
    h("h4", {}, "What the model expected here"),
    h("p", { class: "note" }, "Choose another token: the text continues from there."),
    bars(token, options, onChoose),
    h("p", { class: "note" }, limits, ` ${precision(shaped.error)}`),
  ];
}

/** How exact the probabilities are: those of more than 100 tokens come from a histogram of the logits. */
function precision(error) {
  return error < 1e-6 ? "" : `Relative error of the percentages: at most ${number(100 * error, 2)} %.`;
}
