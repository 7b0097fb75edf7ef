// The story of a step in four parts: loss before, gradient, update, loss and probabilities after.

import { h, number, sequential, tokenLabel } from "../ui.js";
import { labelBars } from "../label.js";
import { ratioChart } from "./charts.js";
import { arrows, chance, changeOf, gridMap, legend, logScale, lossStrip, partsTable, scrolled, short } from "./pictures.js";

const WAITING = "Press “One step” to see it.";

const TEXTS = {
  loss: ["1. The loss before the step", "Each token is coloured by its loss: −log of the probability that the model gave to this token after reading the tokens before it. " +
    "0 nats means that the model was certain of it. Training makes the mean of these losses smaller."],
  gradient: ["2. The gradient", "The gradient says how the mean loss changes if a number changes a little. The backward pass computes it for all numbers, " +
    "from the loss back to the embedding. The map shows its size at each position of the residual stream, which is the vector that each block reads and adds to."],
  update: ["3. The update, compared with the weights", "The optimizer turns the gradient of each weight into its update. A ratio of 0.001 means that the update is a thousandth as large as the weights. " +
    "About 1e-3 is a rule of thumb for training (Karpathy, “makemore” lecture, part 3): much more is often unstable, much less is slow."],
  after: ["4. After the step", "The model reads the same text again with the changed weights. An arrow leads from the probability of each true next token before the step to that after it."],
};

const OF_A_LABEL = { // what is said of a classifier instead
  loss: "The model reads the whole text and gives each label a probability. The loss is −log of the probability of the label to predict, which is chosen above: " +
    "0 nats means that the model was certain of it. Training makes it smaller.",
  after: "The model reads the same text again with the changed weights.",
};

export function story(root) {
  let now = null, steps = null, picked = null, order = "text", scale = null;
  const bodies = {}, said = {};
  for (const [name, [title, text]] of Object.entries(TEXTS)) {
    bodies[name] = h("div", {}, h("p", { class: "note" }, WAITING));
    said[name] = h("p", {}, text);
    root.append(h("section", { class: "panel", "aria-label": title }, h("h3", {}, title), said[name], bodies[name]));
  }
  const pick = (t) => {
    picked = picked === t ? null : t;
    const focused = document.activeElement?.dataset?.t, group = document.activeElement?.parentElement?.getAttribute("aria-label");
    redraw();
    if (focused) [...root.querySelectorAll(".loss-strip")].find((strip) => strip.getAttribute("aria-label") === group)
      ?.querySelector(`[data-t="${focused}"]`)?.focus();
  };

  function drawLoss() {
    if (now.label !== null) {
      const loss = steps ? steps.first.losses_before[0] : now.losses[0];
      return bodies.loss.replaceChildren(
        labelBars(now.labels, steps ? steps.first.labels_before : now.probabilities, { label: now.label, form: chance }),
        h("p", {}, h("strong", {}, `Loss: ${number(loss, 4)}${Number.isFinite(loss) ? " nats" : ""}`)));
    }
    const losses = steps ? steps.first.losses_before : now.losses;
    const largest = d3.max([...losses, ...(steps?.last.losses_after ?? [])]) || 1;
    const mean = losses.includes(null) ? null : d3.mean(losses);
    bodies.loss.replaceChildren(
      lossStrip(now.tokens, losses, largest, {
        label: "Loss of each token before the step", picked, onPick: pick,
        note: (t) => (t ? `loss ${number(losses[t - 1])} nats, probability ${chance(losses[t - 1] === null ? NaN : Math.exp(-losses[t - 1]))}` : "no loss: the first token is not predicted"),
      }),
      h("p", {}, h("strong", {}, `Mean loss: ${number(mean, 4)}${mean === null ? "" : " nats"}`),
        mean === null ? "" : ` over ${losses.length} predictions: a typical probability of ${chance(Math.exp(-mean))}.`),
      legend("Loss", "0", `${number(largest)} nats`, (x) => sequential("warm")(0.9 * x)),
    );
  }

  function drawGradient() {
    const { gradients: g, gradient_norm: norm, gradient_scale: shrunk, rule } = steps.last;
    const stream = logScale(g.stream.flat());
    const rms = logScale(g.groups.map((group) => group.rms)), norms = logScale(g.groups.map((group) => group.norm));
    const clipped = shrunk < 1 ? ` Training limits it to ${rule.clip}, so the gradient was multiplied by ${short(shrunk)}.` : "";
    const color = sequential(), ofTokens = g.label === null;
    const note = (i, j) => `${g.layers[i]}, position ${j}, which reads ${tokenLabel(g.tokens[j])}` +
      `${ofTokens ? ` and predicts ${tokenLabel(g.tokens[j + 1])}` : j < g.length ? "" : " (padding)"}: norm ${short(g.stream[i][j])}`;
    const colored = (scaleOf) => (x) => (scaleOf.share(x) === null ? null : color(scaleOf.share(x)));
    bodies.gradient.replaceChildren(
      h("p", {}, h("strong", {}, `Norm of the whole gradient: ${number(norm)}.`), clipped,
        steps.count > 1 ? ` All maps here are of the last of the ${steps.count} steps.` : null),
      gridMap(g.stream, {
        rows: g.layers, columns: g.tokens.slice(0, g.stream[0].length), scale: stream, note,
        picked: ofTokens && picked !== null ? picked - 1 : null, onPick: ofTokens ? (j) => pick(j + 1) : null,
        label: "Norm of the gradient by block and position.",
      }),
      legend("Norm of d loss / d residual stream, logarithmic", short(stream.low), short(stream.high), color, 0.08),
      h("div", { class: "learn-columns" },
        partsTable(g.groups, {
          caption: "Norm of d loss / d weights, for all weights of a part together.", value: (group) => group.norm, color: colored(norms),
        }),
        partsTable(g.groups, {
          caption: "The same per weight (root mean square): parts of different size can be compared.", value: (group) => group.rms, color: colored(rms),
        })),
    );
  }

  function drawUpdate() {
    const { updates, rule } = steps.last;
    const low = sequential("cold"), high = sequential("warm");
    const color = (x) => {
      const share = Math.max(-1, Math.min(1, Math.log10(x / 1e-3) / 2));
      return x > 0 ? (share < 0 ? low(-0.85 * share) : high(0.85 * share)) : null;
    };
    const name = rule.optimizer === "sgd" ? "SGD" : `AdamW with ${rule.moments === "fresh" ? "fresh moments" : rule.moments === "checkpoint" ? "the moments of the checkpoint" : "the moments of the steps before"}`;
    bodies.update.replaceChildren(
      h("p", {}, h("strong", {}, `${name}, learning rate ${rule.lr}.`),
        " One dot for each block (for the embeddings, the final norm and the head only one):"),
      h("div", { class: "learn-columns" },
        scrolled("Ratio of update to weight", ratioChart(updates)),
        partsTable(updates, {
          caption: "norm(update) / norm(weight). Colour: blue below 1e-3, orange above.", value: (update) => update.ratio, color,
        })),
    );
  }

  function drawAfter() {
    const { first, last, count } = steps;
    if (last.label !== null) return drawLabelsAfter();
    const step = { ...last, losses_before: first.losses_before, before: first.before };
    const largest = d3.max([...step.losses_before, ...step.losses_after]) || 1;
    const positions = d3.range(step.before.length);
    if (order === "change") positions.sort((a, b) => gain(step, b) - gain(step, a));
    const log = scale === null ? d3.max([...step.before, ...step.after]) < 0.05 : scale === "log";
    const better = positions.filter((t) => step.after[t] > step.before[t]).length;
    const choice = (label, options, value, set) => {
      const select = h("select", {}, options.map(([id, text]) => h("option", { value: id, selected: id === value }, text)));
      select.addEventListener("change", () => {
        set(select.value);
        drawAfter();
        bodies.after.querySelector(`[aria-label="${label}"]`).focus();
      });
      select.setAttribute("aria-label", label);
      return h("label", { class: "check" }, label, select);
    };
    bodies.after.replaceChildren(
      h("p", { class: "outcome" }, h("strong", {}, `Mean loss: ${number(first.loss_before, 4)} → ${number(last.loss_after, 4)}${last.loss_after === null ? "" : " nats"}`),
        ` after ${count === 1 ? "one step" : `${count} steps`}. The true next token became more probable at ${better} of ${positions.length} positions.`,
        ...warnings(first, last)),
      h("div", { class: "row" },
        choice("order", [["text", "as in the text"], ["change", "largest gain first"]], order, (value) => (order = value)),
        choice("axis", [["linear", "linear"], ["log", "logarithmic"]], log ? "log" : "linear", (value) => (scale = value))),
      arrows(step, { order: positions, log, picked: picked === null ? null : picked - 1, onPick: (t) => pick(t + 1) }),
      h("p", { class: "note" }, "● before, ▲ after and more probable, ▼ after and less probable. The tokens below the axis are those that are predicted."),
      lossStrip(now.tokens, step.losses_after, largest, {
        label: "Loss of each token after the step", picked, onPick: pick,
        note: (t) => (t ? changeOf(step, t - 1) : "no loss: the first token is not predicted"),
      }),
      legend("Loss after the step", "0", `${number(largest)} nats`, (x) => sequential("warm")(0.9 * x)),
      h("details", {}, h("summary", {}, "Numbers"), numbers(step, positions)),
    );
  }

  function drawLabelsAfter() {
    const { first, last, count } = steps;
    bodies.after.replaceChildren(
      h("p", { class: "outcome" }, h("strong", {}, `Loss: ${number(first.loss_before, 4)} → ${number(last.loss_after, 4)}${last.loss_after === null ? "" : " nats"}`),
        ` after ${count === 1 ? "one step" : `${count} steps`}.`, ...warnings(first, last)),
      labelBars(last.labels, last.labels_after, { label: last.label, before: first.labels_before, form: chance }));
  }

  function redraw() {
    if (!now) return;
    for (const [name, [, text]] of Object.entries(TEXTS)) said[name].textContent = (now.label !== null && OF_A_LABEL[name]) || text;
    drawLoss();
    for (const [name, draw] of [["gradient", drawGradient], ["update", drawUpdate], ["after", drawAfter]]) {
      if (steps) draw();
      else bodies[name].replaceChildren(h("p", { class: "note" }, WAITING));
    }
  }
  return {
    redraw,
    draw(before, shown) {
      now = before;
      steps = shown;
      if (picked !== null && picked >= now.tokens.length) picked = null;
      redraw();
    },
    step(shown) {
      now = { ...now, tokens: shown.last.tokens, labels: shown.last.labels, label: shown.last.label };
      steps = shown;
      redraw();
    },
  };
}

/** What to do where a step was too large. */
function warnings(first, last) {
  if (last.loss_after === null) return [" The numbers have become too large for float32: the step was far too large. Undo, and try a smaller learning rate."];
  return last.loss_after > first.loss_before ? [" The loss rose: the step was too large. Undo, and try a smaller learning rate."] : [];
}

const gain = (step, t) => Math.log(step.after[t] || 1e-30) - Math.log(step.before[t] || 1e-30);

function numbers(step, positions) {
  const row = (t) => h("tr", {},
    h("td", { class: "number" }, String(t + 1)), h("td", { class: "mono" }, tokenLabel(step.tokens[t + 1])),
    h("td", { class: "number" }, chance(step.before[t])), h("td", { class: "number" }, chance(step.after[t])),
    h("td", { class: "number" }, number(step.losses_before[t])), h("td", { class: "number" }, number(step.losses_after[t])));
  const head = ["position", "token", "before", "after", "loss before", "loss after"];
  return scrolled("Numbers after the step",
    h("table", {}, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col", class: name === "token" ? null : "number" }, name)))),
      h("tbody", {}, positions.map(row))));
}
