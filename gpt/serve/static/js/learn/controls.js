// The controls of the Learn view: optimizer, learning rate, steps, undo; the progress and the loss of the session.

import { chosenRun, state } from "../state.js";
import { field, h, number } from "../ui.js";
import { lossChart } from "./charts.js";
import { scrolled } from "./pictures.js";

const PHASES = ["copy", "forward", "backward", "update"];
const SAID = { copy: "copying the model", forward: "forward pass", backward: "backward pass", update: "update" };

function size(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function controls({ onSteps, onUndo, onReset, onStop, label }) {
  const optimizer = h("select", {}, h("option", { value: "adamw" }, "AdamW (as training)"), h("option", { value: "sgd" }, "SGD"));
  const lr = h("input", { type: "text", inputmode: "decimal", size: 8, autocomplete: "off" });
  const moments = h("select", {}, h("option", { value: "fresh" }, "fresh"), h("option", { value: "checkpoint" }, "of the checkpoint"));
  const momentsField = field("moments", moments);
  const counts = [1, 5, 20].map((count) => h("button", {
    type: "button", class: count === 1 ? "primary" : null, onclick: () => onSteps(options(count)),
  }, count === 1 ? "One step" : `${count} steps`));
  const back = h("button", { type: "button", onclick: onUndo }, "Undo");
  const reset = h("button", { type: "button", onclick: onReset }, "Undo all");
  const stop = h("button", { type: "button", onclick: onStop }, "Stop");
  const bar = h("progress", { max: 1, "aria-label": "progress of the steps" });
  const doing = h("span", { class: "note mono" });
  const running = h("div", { class: "row running idle" }, bar, doing, stop);
  const rule = h("p", { class: "note" }), memory = h("p", { class: "note" });
  const chart = h("div", {});
  let known = null; // the session as from the server
  let defaults = null, ofRun = null, busy = false;

  function options(count) {
    return { optimizer: optimizer.value, lr: lr.value.trim() ? Number(lr.value) : NaN, moments: moments.value, count };
  }
  function enable() {
    for (const button of counts) button.disabled = busy || !defaults; // before, the learning rate is not known
    back.disabled = busy || !known?.undo;
    reset.disabled = busy || !state.session;
  }
  function explain() {
    momentsField.hidden = optimizer.value !== "adamw";
    if (!defaults) return;
    const { beta1, beta2, weight_decay: decay, clip, dropout } = defaults;
    const sentences = optimizer.value === "sgd"
      ? ["SGD: weight = weight − learning rate × gradient."]
      : [`AdamW as in training: betas ${beta1} and ${beta2}, weight decay ${decay}, ${clip ? `gradient clipped to a norm of ${clip}` : "no gradient clipping"}.`,
        moments.value === "fresh"
          ? "Fresh moments: AdamW's averages of earlier gradients start at 0 with the first step of this session, so that step changes every weight by about the learning rate; later steps continue them."
          : "The first step of this session continues AdamW's averages from the checkpoint; later steps continue them."];
    if (dropout) sentences.push(`Dropout (${dropout} in training) is off.`);
    rule.textContent = sentences.join(" ");
  }
  optimizer.addEventListener("change", explain);
  moments.addEventListener("change", explain);

  const element = h("section", { class: "panel learn-controls", "aria-label": "Step" },
    h("div", { class: "learn-columns" },
      h("div", {},
        h("div", { class: "row" }, field("optimizer", optimizer), field("learning rate", lr), momentsField, label),
        h("div", { class: "row buttons" }, counts, back, reset),
        running, rule, memory),
      chart));
  enable();

  return {
    element,
    /** The defaults of the chosen run. */
    settings(now) {
      defaults = now;
      if (ofRun !== state.run) {
        ofRun = state.run;
        lr.value = String(now.lr);
        if (chosenRun()?.imported) moments.value = "fresh";
        moments.disabled = Boolean(chosenRun()?.imported); // an imported model has no moments
      }
      explain();
      enable();
    },
    session(described) {
      known = described;
      chart.replaceChildren(...(known?.losses.length
        ? [h("h3", {}, "Mean loss on the text (nats)"), scrolled("Mean loss on the text", lossChart(known.losses))] : []));
      memory.textContent = known ? memoryOf(known) : "";
      enable();
    },
    begin() {
      busy = true;
      running.classList.remove("idle");
      bar.value = 0;
      doing.textContent = "waiting for the server";
      enable();
    },
    progress({ step, of, phase }) {
      bar.value = (step - 1 + PHASES.indexOf(phase) / PHASES.length) / of;
      doing.textContent = of === 1 ? SAID[phase] : `step ${step} of ${of}: ${SAID[phase]}`;
    },
    end() {
      busy = false;
      running.classList.add("idle");
      enable();
    },
  };
}

function memoryOf({ losses, undo, bytes, history_bytes: kept, history_limit: limit }) {
  const memory = `This session takes ${size(bytes)} of memory, and ${size(kept)} for undo.`;
  return undo < losses.length
    ? `${memory} Undo goes back ${number(undo)} of ${number(losses.length)} steps: older ones were dropped, because the history is limited to ${size(limit)}.`
    : memory;
}
