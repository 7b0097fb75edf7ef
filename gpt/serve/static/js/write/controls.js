// The controls of generation: temperature, top-k, top-p, number of tokens, seed.

import { field, h } from "../ui.js";

const TOP_K = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10000, 20000];
const settings = { temperature: 0.8, topK: null, topP: null, tokens: 60, seed: 1337 }; // kept while the page is open

/**
 * The controls: { element, options, request(seed), vocabulary(size) }. `options()` is what reshapes a distribution;
 * `request(drawn)` are the fields for the server after `drawn` tokens. `onShape` is called when a slider moves.
 */
export function makeControls(onShape) {
  let choices = [...TOP_K, null]; // of top-k; null: all tokens
  const shape = (fields) => {
    Object.assign(settings, fields);
    onShape();
  };

  const temperature = slider({ min: 0, max: 2, step: 0.05, value: settings.temperature },
    (value) => (value === 0 ? "0: the most probable" : value.toFixed(2)), (value) => shape({ temperature: value }));
  const topK = slider({ min: 0, max: choices.length - 1, step: 1, value: choices.indexOf(settings.topK) },
    (at) => (choices[at] === null ? "all tokens" : choices[at].toLocaleString("en")),
    (at) => shape({ topK: choices[at] }));
  const topP = slider({ min: 0.05, max: 1, step: 0.01, value: settings.topP ?? 1 },
    (value) => (value === 1 ? "all tokens" : value.toFixed(2)), (value) => shape({ topP: value === 1 ? null : value }));
  const tokens = whole("tokens", 1, 2000);
  const seed = whole("seed", 0, Number.MAX_SAFE_INTEGER);

  return {
    element: h("div", { class: "write-controls" },
      field("temperature", temperature.input, temperature.output),
      field("top-k (tokens)", topK.input, topK.output),
      field("top-p (probability)", topP.input, topP.output),
      field("number of tokens", tokens),
      field("seed", seed)),
    options: () => settings,
    request: (drawn) => ({
      temperature: settings.temperature, top_k: settings.topK, top_p: settings.topP, tokens: settings.tokens,
      seed: Math.min(settings.seed + drawn, Number.MAX_SAFE_INTEGER),
    }),
    /** Limits top-k to the vocabulary of the chosen run. */
    vocabulary(size) {
      choices = [...TOP_K.filter((k) => k < size), null];
      if (settings.topK >= size) settings.topK = null;
      topK.input.max = choices.length - 1;
      topK.set(choices.indexOf(settings.topK));
    },
  };
}

/** A range input with its value as text. */
function slider({ min, max, step, value }, label, onInput) {
  const input = h("input", { type: "range", min: String(min), max: String(max), step: String(step) });
  const output = h("output", { class: "mono" });
  const say = () => {
    output.textContent = label(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.value = value;
  say();
  input.addEventListener("input", () => {
    say();
    onInput(Number(input.value));
  });
  return { input, output, set: (at) => { input.value = at; say(); } };
}

/** An input for a whole number of the settings; an invalid one is replaced by the last valid one. */
function whole(name, min, max) {
  const input = h("input", { type: "number", min: String(min), max: String(max), step: "1", inputmode: "numeric" });
  input.value = settings[name];
  input.addEventListener("change", () => {
    if (input.value !== "" && input.checkValidity()) settings[name] = Number(input.value);
    else input.value = settings[name];
  });
  return input;
}
