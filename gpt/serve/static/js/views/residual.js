// The residual stream: what each part adds to it, and how much each part contributes to a logit.

import { post } from "../api.js";
import { grid, legend } from "../grid.js";
import { tokenButton, tokenPicker } from "../picker.js";
import { state, subscribe } from "../state.js";
import { field, h, latest, number, percent, sequential, showOnce, tokenLabel, tokenText } from "../ui.js";

// What the reader chose; it stays when the checkpoint or the view changes. Position and token stay as long as run and
// text do; null: the last position, the most probable token.
const chosen = { about: null, part: 0, position: null, token: null, size: "ratio", relative: true, open: new Set() };

export default {
  id: "residual",
  title: "Residual stream",
  section: "Look inside",
  text: true,
  tasks: ["pretrain", "instruct", "classify"],

  mount(root) {
    let found = null;
    const work = latest(root);
    const scale = h("span", {});
    const effects = h("section", {});
    const size = h("select", { onchange: () => { chosen.size = size.value; drawSizes(); } },
      h("option", { value: "ratio" }, "relative to the stream before it"),
      h("option", { value: "norm" }, "the norm itself"));
    size.value = chosen.size;
    const table = grid("the size of what each part adds at each position", {
      onSelect: (i, j) => {
        chosen.part = i;
        if (j !== at()) choose({ position: j });
      },
      tip: (i, j) => sizeTip(found.sizes[i], j),
    });
    root.append(
      h("h2", {}, "Residual stream"),
      h("p", {}, "Every position carries a vector, the residual stream. It starts as the sum of two embeddings; then ",
        "attention and the feed-forward network of each block add a vector to it. Blocks are counted from 0, and run ",
        "from top to bottom."),
      h("h3", {}, "How large is what each part adds?"),
      h("p", { class: "note" }, "Euclidean norm of the added vector. Relative: divided by the norm of the stream ",
        "before it, so 1.0 is as large as the stream itself."),
      h("div", { class: "row" }, field("size", size), scale), table.element, effects,
    );
    const at = () => chosen.position ?? found.ids.length - 1;
    const choose = (fields) => {
      Object.assign(chosen, fields);
      update();
    };

    const drawSizes = () => {
      const ratio = (part, j) => (part.before[j] ? part.added[j] / part.before[j] : null);
      const value = (part, j) => (chosen.size === "norm" ? part.added[j] : ratio(part, j));
      const all = found.sizes.flatMap((part) => part.added.map((_, j) => value(part, j))).filter((x) => x !== null);
      const largest = chosen.size === "norm" ? d3.max(all) : Math.max(1, d3.quantile(all, 0.95));
      const color = sequential();
      table.draw({
        columns: found.texts.map(tokenText), rows: found.sizes.map((part) => part.name), head: "token",
        cell: (i, j) => {
          const part = found.sizes[i], x = value(part, j);
          const text = x === null ? "–" : x < 9.95 ? x.toFixed(1) : number(x, 2);
          const label = `${text}, ${part.name}, position ${j}`;
          return { content: text, color: color(Math.min(1, (x ?? 0) / largest)), label };
        },
      });
      table.select(chosen.part, at());
      const top = chosen.size === "norm" ? number(largest) : `${number(largest)} or more`;
      scale.replaceChildren(legend(color, ["0", top]));
    };
    const drawEffects = () => {
      if (!found.attribution) {
        const none = "This run is a classifier: it has no logits of tokens to attribute.";
        effects.replaceChildren(h("p", { class: "note" }, none));
        return;
      }
      effects.replaceChildren(...effectsOf(found, choose, drawEffects));
    };
    const update = () => work(async (signal) => {
      const about = JSON.stringify([state.run, state.text]);
      if (chosen.about !== about) Object.assign(chosen, { about, position: null, token: null });
      const wanted = { text: state.text, position: chosen.position ?? -1, token: chosen.token };
      found = await post("/api/residual", wanted, { signal });
      drawSizes();
      drawEffects();
    });
    showOnce(root, update());
    const unsubscribe = subscribe((changed) => {
      if (["run", "step", "session", "text"].some((name) => changed.has(name))) update();
    });
    return () => {
      unsubscribe();
      work.stop();
    };
  },
};

function sizeTip(part, j) {
  const norms = { "norm of the added vector": "added", "norm of the stream before": "before", "and after": "after" };
  return h("table", {}, Object.entries(norms).map(([name, field]) =>
    h("tr", {}, h("td", {}, name), h("td", { class: "number" }, number(part[field][j])))));
}

// ----- effects on a logit -----------------------------------------------------------------------------------------

function effectsOf(found, choose, redraw) {
  const { attribution, ids, texts } = found, next = ids[attribution.position + 1];
  const position = h("select", { onchange: () => choose({ position: Number(position.value), token: null }) },
    texts.map((text, i) => h("option", { value: String(i) }, `${i}: ${tokenLabel(text)}`)));
  position.value = String(attribution.position);
  const relative = h("input", { type: "checkbox", onchange: () => { chosen.relative = relative.checked; redraw(); } });
  relative.checked = chosen.relative;
  const pick = (id) => choose({ token: id });
  const candidates = attribution.candidates.map(([id, text, p]) =>
    tokenButton({ id, text }, pick, { more: ` ${percent(p)}`, pressed: id === attribution.token }));
  const truth = next === undefined ? null : h("div", { class: "row" }, h("span", {}, "true next token"),
    tokenButton({ id: next, text: texts[attribution.position + 1] }, pick, { pressed: next === attribution.token }));
  const token = h("span", { class: "token boxed" }, tokenText(attribution.text));
  return [
    h("h3", {}, "What contributes to a logit?"),
    h("p", { class: "note" }, "The logit of a token is a sum over all parts: each part's vector is centred, divided ",
      "by the standard deviation of the whole stream (as the last LayerNorm does; this number is kept fixed) and ",
      "multiplied with the norm's weight and the token's row of the head. A bar begins where the one above it ends; ",
      "ones that raise the logit are orange, ones that lower it blue."),
    h("div", { class: "row" }, field("after position", position), h("span", {}, "most probable"), candidates),
    h("div", { class: "row" }, truth, tokenPicker("another token", pick).element),
    h("label", { class: "check" }, relative, h("span", {},
      "relative to the mean logit of the vocabulary. Softmax ignores what is added to all logits alike.")),
    h("p", {}, token, ` after position ${attribution.position}: probability ${percent(attribution.probability)}, `,
      `rank ${number(attribution.rank, 6)}, logit ${number(attribution.logit)}, `,
      `mean logit ${number(attribution.mean_logit)}.`),
    waterfall(attribution, redraw),
  ];
}

/** Rows of name, bar and number. A row of attention opens to its heads. */
function waterfall({ effects, logit, mean_logit: mean }, redraw) {
  const value = (effect) => (chosen.relative ? effect.logit - effect.mean : effect.logit);
  const total = chosen.relative ? logit - mean : logit;
  const rows = []; // [name, begin, end, level, effect]
  let sum = 0;
  for (const effect of effects) {
    rows.push({ name: effect.name, begin: sum, end: sum + value(effect), effect });
    if (effect.parts.length && chosen.open.has(effect.name)) {
      let inner = sum;
      for (const part of effect.parts) {
        rows.push({ name: part.name, begin: inner, end: (inner += value(part)), inner: true });
      }
    }
    sum += value(effect);
  }
  rows.push({ name: chosen.relative ? "logit − mean logit" : "logit", begin: 0, end: total, total: true });
  const [low, high] = d3.extent(rows.flatMap((row) => [row.begin, row.end]));
  const share = d3.scaleLinear([low, high === low ? low + 1 : high], [0, 100]);
  const list = h("ul", { class: "waterfall" }, rows.map((row) => waterfallRow(row, share, redraw)));
  return list;
}

function waterfallRow({ name, begin, end, effect, inner, total }, share, redraw) {
  const bar = h("span", { class: `amount ${total ? "total" : end < begin ? "negative" : "positive"}` });
  bar.style.left = `${share(Math.min(begin, end))}%`;
  bar.style.width = `${Math.abs(share(end) - share(begin))}%`;
  const zero = h("span", { class: "zero" });
  zero.style.left = `${share(0)}%`;
  const open = chosen.open.has(name);
  const toggle = () => {
    if (!chosen.open.delete(name)) chosen.open.add(name);
    redraw();
    document.querySelector(`.waterfall [data-name="${name}"]`)?.focus();
  };
  const label = effect?.parts.length
    ? h("button", {
      type: "button", "aria-expanded": String(open), "data-name": name, title: "the heads of this block",
      onclick: toggle,
    }, open ? "▾ " : "▸ ", name)
    : h("span", {}, name);
  return h("li", { class: inner ? "inner" : total ? "sum" : null }, h("span", { class: "name" }, label),
    h("span", { class: "track", "aria-hidden": "true" }, zero, bar),
    h("span", { class: "value" }, signed(end - begin)));
}

function signed(x) {
  return Number.isFinite(x) ? `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(3)}` : "not finite";
}
