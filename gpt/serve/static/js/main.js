// The frame of the page: run, checkpoint and text are chosen here; the address names the view that is shown.

import { get } from "./api.js";
import { mountCheckpoint } from "./checkpoint.js";
import { mountSession } from "./session.js";
import { startLive } from "./live.js";
import { addressOf, change, chosenRun, readAddress, state, subscribe } from "./state.js";
import { debounce, field, h, hideTip, showError } from "./ui.js";
import { views } from "./views/index.js";

const EXAMPLE = "To be, or not to be, that is the question";
const $ = (id) => document.getElementById(id);
let unmount = null;
let shown = null;

/** The views that the chosen run has. */
function available() {
  const task = chosenRun()?.task ?? "pretrain";
  return views.filter((view) => !view.tasks || view.tasks.includes(task));
}

function drawNavigation() {
  const items = [];
  let section = null;
  for (const view of available()) {
    if (view.section && view.section !== section) items.push(h("span", { class: "section" }, view.section));
    section = view.section ?? null;
    items.push(h("a", { href: addressOf(view.id), "aria-current": view.id === state.view ? "page" : null }, view.title));
  }
  $("nav").replaceChildren(...items);
  $("nav").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function showView() {
  const view = available().find(({ id }) => id === state.view) ?? available()[0];
  if (view.id !== state.view) return change({ view: view.id });
  drawNavigation();
  if (shown === view.id) return;
  shown = view.id;
  unmount?.();
  hideTip();
  document.title = `${view.title} · gpt look`;
  $("text-bar").hidden = !view.text;
  $("view").replaceChildren();
  $("view").className = `view-${view.id}`;
  unmount = view.mount($("view")) ?? null;
}

function drawTextBar() {
  const area = h("textarea", { rows: 1, spellcheck: "false", maxlength: "100000" });
  area.value = state.text;
  area.addEventListener("input", debounce(() => change({ text: area.value }), 350));
  subscribe((changed) => {
    if (changed.has("text") && area.value !== state.text) area.value = state.text;
  });
  $("text-bar").append(field("Text", area));
}

async function start() {
  let runs;
  try {
    runs = await get("/api/runs");
  } catch (error) {
    return showError($("message"), error);
  }
  const readable = runs.filter((run) => !run.error);
  for (const run of runs.filter((run) => run.error)) console.warn(`${run.name}: ${run.error}`);
  if (!readable.length) return showError($("message"), new Error("there is no readable run here"));
  const address = readAddress();
  const run = readable.find(({ name }) => name === address.run) ?? readable[0];
  const step = run.steps.includes(address.step) ? address.step : null;
  change({ runs: readable, run: run.name, step, text: address.text ?? EXAMPLE, view: address.view });

  const select = $("run");
  const drawRuns = () => {
    if ([...select.options].map(({ value }) => value).join("\n") === state.runs.map(({ name }) => name).join("\n")) return;
    select.replaceChildren(...state.runs.map(({ name }) => h("option", { value: name }, name)));
    select.value = state.run;
  };
  drawRuns();
  select.addEventListener("change", () => change({ run: select.value, step: null, session: null }));
  drawTextBar();
  mountCheckpoint($("checkpoint"));
  mountSession($("session"));
  startLive();
  subscribe((changed) => {
    if (changed.has("runs")) drawRuns();
    if (changed.has("run")) select.value = state.run;
    if (["run", "view"].some((name) => changed.has(name))) showView();
    else if (["step", "text"].some((name) => changed.has(name))) drawNavigation();
  });
  showView();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address after # names the view
    $("main").focus();
  });
  addEventListener("hashchange", () => {
    const { view, run: name, step: at, text } = readAddress();
    const known = state.runs.some((other) => other.name === name) ? name : state.run;
    change({ view, run: known, step: at, text: text ?? state.text });
    $("main").focus({ preventScroll: true });
  });
}

start();
