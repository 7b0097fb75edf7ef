// The slider over the checkpoints that the chosen run keeps.

import { change, chosenRun, state, subscribe } from "./state.js";
import { h } from "./ui.js";

export function mountCheckpoint(root) {
  const draw = () => {
    const steps = chosenRun()?.steps ?? [];
    const at = state.step === null ? steps.length - 1 : steps.indexOf(state.step);
    if (steps.length < 2) {
      root.replaceChildren(h("span", { class: "note" }, steps.length ? `step ${steps[0].toLocaleString("en")}` : ""));
      return;
    }
    const slider = h("input", {
      type: "range", min: "0", max: String(steps.length - 1), "aria-label": "checkpoint",
      "aria-valuetext": `step ${steps[at]}`,
    });
    slider.value = at;
    const label = h("output", { class: "mono" }, `step ${steps[at].toLocaleString("en")}`);
    slider.addEventListener("input", () => {
      label.textContent = `step ${steps[slider.value].toLocaleString("en")}`;
      slider.setAttribute("aria-valuetext", label.textContent);
    });
    slider.addEventListener("change", () => change({ step: steps[slider.value], session: null }));
    root.replaceChildren(h("span", { class: "faint" }, "checkpoint"), slider, label);
  };
  draw();
  subscribe((changed) => {
    if (changed.has("run") || changed.has("runs")) draw();
  });
}
