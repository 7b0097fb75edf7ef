// The slider over the checkpoints that the chosen run keeps, and a button that walks through them.

import { change, chosenRun, state, subscribe } from "./state.js";
import { h, tooltip } from "./ui.js";

const DWELL = 700, LOOK = 60, LONGEST = 120000; // milliseconds: between checkpoints, between looks, for one view
const FEW = 4; // kept checkpoints, below which the page says how to keep more

export function mountCheckpoint(root) {
  const slider = h("input", { type: "range", min: "0", "aria-label": "checkpoint" });
  const button = h("button", { class: "play", type: "button" });
  const label = h("output", { class: "mono" });
  const keeps = h("button", { class: "keeps", type: "button" });
  const caption = h("span", { class: "faint" }, "checkpoint");
  const gone = h("span", { class: "note", role: "status" });
  let playing = null, dragging = false, before = state.step, run = state.run;

  const steps = () => chosenRun()?.steps ?? [];
  const at = () => (steps().includes(state.step) ? steps().indexOf(state.step) : steps().length - 1);
  const textOf = (i) => {
    if (!steps().length) return "no checkpoints";
    const step = `step ${steps()[i].toLocaleString("en")}`;
    return i === steps().length - 1 && steps().length > 1 ? `${step}, newest` : step;
  };
  const choose = (i) => change({ step: i === steps().length - 1 ? null : steps()[i], session: null });

  const show = (i) => {
    label.textContent = textOf(i);
    slider.setAttribute("aria-valuetext", label.textContent);
  };
  const draw = () => {
    const several = steps().length > 1;
    for (const element of [caption, slider, button]) element.hidden = !several;
    slider.max = steps().length - 1;
    if (!dragging) slider.value = at();
    show(several && dragging ? Number(slider.value) : at());
    button.textContent = playing ? "⏸" : "▶";
    button.setAttribute("aria-label", playing ? "stop" : still() ? "next checkpoint" : "play all checkpoints");
    const keep = chosenRun()?.keep;
    keeps.hidden = !keep || keep > FEW;
    keeps.textContent = `keeps ${keep}`;
  };
  const stop = () => {
    playing = null;
    draw();
  };
  const play = async () => {
    const mine = (playing = {});
    let i = at() === steps().length - 1 ? 0 : at() + 1;
    draw();
    while (playing === mine && i < steps().length) {
      choose(i++);
      await settled();
      await pause(DWELL);
      if (document.querySelector("#view .error")) break;
    }
    if (playing === mine) stop();
  };

  slider.addEventListener("pointerdown", () => (dragging = true));
  slider.addEventListener("input", () => {
    if (playing) stop();
    show(Number(slider.value));
  });
  slider.addEventListener("change", () => {
    dragging = false;
    choose(Number(slider.value));
  });
  slider.addEventListener("pointerup", () => (dragging = false));
  button.addEventListener("click", () => {
    if (playing) stop();
    else if (still()) choose((at() + 1) % steps().length);
    else play();
  });
  tooltip(keeps, () => keepSentence(chosenRun()));
  root.replaceChildren(caption, button, slider, label, keeps, gone);
  draw();
  subscribe((changed) => {
    if (changed.has("run")) playing = null;
    if (changed.has("run") && changed.has("runs") && !state.runs.some(({ name }) => name === run)) gone.textContent = `${run} is not here any more`;
    else if (changed.has("run") || (changed.has("step") && state.step !== null)) gone.textContent = "";
    else if (changed.has("runs") && changed.has("step") && before !== null) gone.textContent = `step ${before.toLocaleString("en")} was deleted`;
    [before, run] = [state.step, state.run];
    if (["run", "runs", "step"].some((name) => changed.has(name))) draw();
  });
}

/** How many checkpoints a run keeps, and how to keep more. */
export function keepSentence(run) {
  if (!run?.keep) return null;
  const n = `${run.keep} checkpoint${run.keep === 1 ? "" : "s"}`;
  return `The run keeps ${n} and deletes older ones: train with --keep 20 to see more.`;
}

/** Whether the user prefers that nothing moves by itself. */
function still() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when the view has shown the answer to its last request. */
async function settled() {
  const end = performance.now() + LONGEST;
  do await pause(LOOK);
  while (document.querySelector("#view[aria-busy], #view [aria-busy=true]") && performance.now() < end);
}
