// Vanishing gradients: the gradient after each block with and without shortcut connections and LayerNorm, side by side.

import { post } from "../api.js";
import { chosenLabel } from "../label.js";
import { chosenRun, state } from "../state.js";
import { h, latest, sequential, tokenLabel } from "../ui.js";
import { layerChart } from "./charts.js";
import { gridMap, legend, logScale, scrolled, short } from "./pictures.js";

const LARGE = 1e6; // blocks times width squared; a gradient of a smaller model takes less than a second
const WHOLE = "with shortcut connections and LayerNorm";

function nameOf({ shortcuts, norms }) {
  if (shortcuts && norms) return WHOLE;
  if (!shortcuts && !norms) return "with neither";
  return shortcuts ? "without LayerNorm" : "without shortcut connections";
}

/** "shrinks by a factor of 120": from the last block to the embedding. */
function trend(values) {
  const [first, last] = [values[0], values.at(-1)];
  if (first === 0) return "shrinks to 0 (below the smallest float32, 1e-45)";
  if (!(first > 0) || !(last > 0)) return "is not finite";
  const factor = last / first;
  if (factor > 0.5 && factor < 2) return "keeps its size";
  return factor > 1 ? `shrinks by a factor of ${short(factor)}` : `grows by a factor of ${short(1 / factor)}`;
}

function sentences(whole, part, options) {
  const first = `On its way back through ${whole.layers.length - 1} blocks, the gradient ${trend(whole.by_layer)} ${WHOLE}, and ` +
    `${trend(part.by_layer)} ${nameOf(options)}.`;
  if (!options.shortcuts && !options.norms) {
    return `${first} With neither, each block multiplies the gradient by its weight matrices, so that after many blocks ` +
      "almost nothing is left and the first blocks hardly learn; switch one part on to see what it does alone.";
  }
  return options.shortcuts
    ? `${first} A shortcut connection adds a block's input to its output, so that the gradient also passes each block unchanged.`
    : `${first} LayerNorm divides by the standard deviation of what it reads, also in the backward pass, which makes up for ` +
      "small weights; but all of the gradient has to pass the weight matrices of every block.";
}

export function vanishing(root) {
  const options = { shortcuts: false, norms: false, fresh: true, layers: null };
  const out = h("div", {});
  const work = latest(root);
  const known = new Map();
  let visible = false, wanted = false, learned = 0; // learned: counts the changes of the session's weights
  const large = () => chosenRun().config.n_layer * chosenRun().config.n_embd ** 2 > LARGE;

  const box = (name, label) => {
    const input = h("input", { type: "checkbox", checked: options[name] });
    input.addEventListener("change", () => {
      options[name] = input.checked;
      update();
    });
    return h("label", { class: "check" }, input, label);
  };
  const weights = h("select", { "aria-label": "weights" },
    h("option", { value: "fresh" }, "fresh random weights"), h("option", { value: "own" }, "those of this page"));
  const blocks = h("select", { "aria-label": "blocks" });
  const chooseBlocks = () => {
    options.layers = options.fresh && blocks.value ? Number(blocks.value) : null;
    update();
  };
  const offerBlocks = () => {
    const { n_layer: own, n_embd: width } = chosenRun().config;
    const more = [12, 24].filter((count) => count > own && 12 * count * width ** 2 < 5e7);
    blocks.replaceChildren(h("option", { value: "" }, `${own} (as the run)`), ...more.map((n) => h("option", { value: String(n) }, String(n))));
    blocks.value = more.length ? String(more[0]) : "";
    options.layers = options.fresh && blocks.value ? Number(blocks.value) : null;
  };
  blocks.addEventListener("change", chooseBlocks);
  weights.addEventListener("change", () => {
    options.fresh = weights.value === "fresh";
    blocks.disabled = !options.fresh;
    chooseBlocks();
  });
  let ofRun = state.run;
  offerBlocks();
  root.append(
    h("h3", {}, "Why blocks have shortcut connections and LayerNorm"),
    h("p", {}, "The gradient has to reach the first block through all later ones. Switch a part off to see the gradient " +
      "of the same model computed without it. Fresh random weights are a fair comparison: trained weights have adapted to both parts. " +
      "The deeper the model, the clearer the difference."),
    h("div", { class: "row" }, box("shortcuts", "shortcut connections"), box("norms", "LayerNorm"),
      h("label", { class: "check" }, "weights", weights),
      h("label", { class: "check" }, "blocks", blocks)),
    out,
  );

  const ask = async (asked, signal) => { // fresh weights do not depend on the checkpoint or on what was learned
    const name = JSON.stringify([asked, state.run, state.text, chosenLabel(), asked.fresh ? null : [state.step, state.session, learned]]);
    if (!known.has(name)) known.set(name, await post("/api/learn/gradients", { text: state.text, label: chosenLabel(), ...asked }, { signal }));
    return known.get(name);
  };
  const map = (found, title, scale) => h("div", { class: "map-column" }, h("h4", {}, title),
    gridMap(found.stream, {
      rows: found.layers, columns: found.tokens.slice(0, found.stream[0].length), scale, label: `Gradient by block and position, ${title}.`, picked: null,
      cell: Math.max(5, Math.min(11, Math.floor(430 / found.stream[0].length))),
      note: (i, j) => `${found.layers[i]}, position ${j} (${tokenLabel(found.tokens[j])}): ${short(found.stream[i][j])}`,
    }));
  function draw(whole, part) {
    const scale = logScale([whole, part].flatMap((found) => found.stream.flat()));
    const series = [{ name: WHOLE, values: whole.by_layer }];
    if (part !== whole) series.push({ name: nameOf(options), dashed: true, values: part.by_layer });
    out.replaceChildren(
      h("p", { class: "series-key" }, series.map(({ name, dashed }) =>
        h("span", { class: dashed ? "key-without" : "key-with" }, `${dashed ? "■ - -" : "● —"} ${name}`))),
      scrolled("Gradient after each block", layerChart(whole.layers, series)),
      h("p", { class: "note" }, "Norm of the gradient with respect to the residual stream, over all positions; logarithmic axis. " +
        "The backward pass goes from right to left."),
      h("p", {}, part === whole ? "Switch off a part to compare." : sentences(whole, part, options)),
      legend("Norm of the gradient at each position", short(scale.low), short(scale.high), sequential(), 0.08),
      h("div", { class: "columns" }, map(whole, WHOLE, scale), part === whole ? null : map(part, nameOf(options), scale)),
    );
  }
  function update() {
    if (ofRun !== state.run) {
      ofRun = state.run;
      wanted = false;
      known.clear();
      offerBlocks();
    }
    if (!visible) return;
    if (large() && !wanted) {
      out.replaceChildren(h("p", {}, h("button", { type: "button", onclick: () => {
        wanted = true;
        update();
      } }, "Compute"), " This model is large: it takes some seconds."));
      return;
    }
    work(async (signal) => {
      const whole = await ask({ ...options, shortcuts: true, norms: true }, signal);
      const part = await ask({ ...options }, signal);
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
      learned += 1;
      if (large() && !options.fresh) wanted = false; // not after each step
      update();
    },
    stop: () => {
      observer.disconnect();
      work.stop();
    },
  };
}
