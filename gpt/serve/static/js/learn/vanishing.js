// Vanishing gradients: the gradient by layer with and without shortcut connections and LayerNorm, side by side.

import { post } from "../api.js";
import { state } from "../state.js";
import { h, latest, sequential, tokenLabel } from "../ui.js";
import { layerChart } from "./charts.js";
import { gridMap, legend, logScale, short } from "./pictures.js";

const WHOLE = "with both";

function nameOf({ shortcuts, norms }) {
  if (shortcuts && norms) return WHOLE;
  return `without ${[shortcuts ? null : "shortcut connections", norms ? null : "LayerNorm"].filter(Boolean).join(" and ")}`;
}

/** "shrinks by a factor of 120": from the last block to the embedding. */
function trend(values) {
  const [first, last] = [values[0], values.at(-1)];
  if (!(first > 0) || !(last > 0)) return "is zero or not finite in some layers";
  const factor = last / first;
  if (factor > 0.5 && factor < 2) return "keeps its size";
  return factor > 1 ? `shrinks by a factor of ${short(factor)}` : `grows by a factor of ${short(1 / factor)}`;
}

function sentences(whole, part, options) {
  const layers = whole.layers.length - 1;
  const first = `On its way back through ${layers} blocks, the gradient ${trend(whole.by_layer)} ${WHOLE}, and ` +
    `${trend(part.by_layer)} ${nameOf(options)}.`;
  const why = options.shortcuts
    ? "LayerNorm keeps the input of each layer at one scale, so that the size of the gradient in one block does not depend on the weights of the others."
    : "A shortcut connection adds a block's input to its output, so the gradient reaches earlier layers also without passing the block's weight matrices; without it, the gradient is multiplied by the matrices of every block.";
  return `${first} ${why}`;
}

export function vanishing(root) {
  const options = { shortcuts: false, norms: true, fresh: true };
  const out = h("div", {});
  const work = latest(root);
  const known = new Map();
  let key = null, visible = false;

  const box = (name, label) => {
    const input = h("input", { type: "checkbox", checked: options[name] });
    input.addEventListener("change", () => {
      options[name] = input.checked;
      update();
    });
    return h("label", { class: "check" }, input, label);
  };
  const weights = h("select", { "aria-label": "weights" },
    h("option", { value: "fresh" }, "fresh random weights"), h("option", { value: "own" }, "the weights shown in this page"));
  weights.addEventListener("change", () => {
    options.fresh = weights.value === "fresh";
    update();
  });
  root.append(
    h("h3", {}, "Why blocks have shortcut connections and LayerNorm"),
    h("p", {}, "The gradient has to reach the first block through all later ones. Switch a part off to see the gradient " +
      "of the same model computed without it. Fresh random weights are a fair comparison: trained weights have adapted to both parts."),
    h("div", { class: "row" }, box("shortcuts", "shortcut connections"), box("norms", "LayerNorm"),
      h("label", { class: "check" }, "weights", weights)),
    out,
  );

  const ask = async ({ shortcuts, norms, fresh }, signal) => {
    const name = JSON.stringify([shortcuts, norms, fresh]);
    if (!known.has(name)) known.set(name, await post("/api/learn/gradients", { text: state.text, shortcuts, norms, fresh }, { signal }));
    return known.get(name);
  };
  const map = (found, title, scale) => h("div", { class: "map-column" }, h("h4", {}, title),
    gridMap(found.stream, {
      rows: found.layers, columns: found.tokens.slice(0, -1), scale, label: `Gradient by layer and position, ${title}.`, picked: null,
      cell: Math.max(5, Math.min(11, Math.floor(430 / (found.tokens.length - 1)))),
      note: (i, j) => `${found.layers[i]}, position ${j} (${tokenLabel(found.tokens[j])}): ${short(found.stream[i][j])}`,
    }));
  function draw(whole, part) {
    const scale = logScale([whole, part].flatMap((found) => found.stream.flat()));
    const series = [{ name: WHOLE, values: whole.by_layer }];
    if (part !== whole) series.push({ name: nameOf(options), dashed: true, values: part.by_layer });
    out.replaceChildren(
      h("p", { class: "series-key" }, series.map(({ name, dashed }) =>
        h("span", { class: dashed ? "key-without" : "key-with" }, `${dashed ? "■ - -" : "● —"} ${name}`))),
      h("div", { class: "scroll" }, layerChart(whole.layers, series)),
      h("p", { class: "note" }, "Norm of the gradient with respect to the residual stream, over all positions; logarithmic axis. " +
        "The backward pass goes from right to left."),
      h("p", {}, part === whole ? "Switch off a part to compare." : sentences(whole, part, options)),
      legend("Norm of the gradient at each position", short(scale.low), short(scale.high), sequential(), 0.08),
      h("div", { class: "columns" }, map(whole, WHOLE, scale), part === whole ? null : map(part, nameOf(options), scale)),
    );
  }
  function update() {
    const now = JSON.stringify([state.run, state.step, state.session, state.text]);
    if (now !== key) known.clear();
    key = now;
    if (!visible) return;
    work(async (signal) => {
      const whole = await ask({ shortcuts: true, norms: true, fresh: options.fresh }, signal);
      const part = await ask(options, signal);
      draw(whole, part);
    });
  }
  const observer = new IntersectionObserver((entries) => {
    if (visible || !entries.some((entry) => entry.isIntersecting)) return;
    visible = true;
    observer.disconnect();
    update();
  });
  observer.observe(root);
  return {
    update: () => {
      key = null;
      update();
    },
    stop: () => {
      observer.disconnect();
      work.stop();
    },
  };
}
