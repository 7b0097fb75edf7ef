// The frame of the page: run, checkpoint and text are chosen here; the address names the view that is shown.

import { get, ServerError } from "./api.js";
import { mountCheckpoint } from "./checkpoint.js";
import { joinSession, mountSession } from "./session.js";
import { startLive } from "./live.js";
import { addressOf, change, chosenRun, readAddress, state, subscribe } from "./state.js";
import { arrange, debounce, field, h, hideTip, showError } from "./ui.js";
import { views } from "./views/index.js";

const LEFT = "The server does not have the learned steps of this address any more: this is the checkpoint.";
const EXAMPLE = "To be, or not to be, that is the question";
const $ = (id) => document.getElementById(id);
let unmount = null;
let shown = null;

/** The views that the chosen run has. */
function available() {
  const task = chosenRun()?.task ?? "pretrain";
  return views.filter((view) => !view.tasks || view.tasks.includes(task));
}

const links = new Map(); // by the view: they stay while a run is trained, and their addresses change

function drawNavigation() {
  const items = [];
  let section = null;
  for (const { id, title, section: named } of available()) {
    if (named && named !== section) items.push(kept(`section ${named}`, () => h("span", { class: "section" }, named)));
    section = named ?? null;
    const link = kept(id, () => h("a", {}, title));
    link.href = addressOf(id);
    if (id === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    items.push(link);
  }
  arrange($("nav"), items);
  $("nav").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

function kept(key, make) {
  if (!links.has(key)) links.set(key, make());
  return links.get(key);
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
  const root = h("div", { id: "view", class: `view-${view.id}` }); // a new one: late answers of the view before are lost
  $("view").replaceWith(root);
  unmount = view.mount(root) ?? null;
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
  if (!readable.length) {
    return showError($("message"), new ServerError(`no run here can be read: ${runs[0]?.error ?? "gpt train makes one"}`));
  }
  const address = readAddress(); // change() writes it
  change({ runs: readable, unreadable: runs.length - readable.length, run: readable[0].name, text: EXAMPLE });
  mountSession($("session"));
  await follow(address);

  const select = $("run");
  const drawRuns = () => {
    if ([...select.options].map(({ value }) => value).join("\n") === state.runs.map(({ name }) => name).join("\n")) return;
    select.replaceChildren(...state.runs.map(({ name }) => h("option", { value: name }, name)));
    select.value = state.run;
  };
  drawRuns();
  drawUnreadable();
  select.addEventListener("change", () => change({ run: select.value, step: null, session: null }));
  drawTextBar();
  mountCheckpoint($("checkpoint"));
  startLive();
  subscribe((changed) => {
    if (changed.has("runs")) drawRuns();
    drawUnreadable();
    if (changed.has("run")) select.value = state.run;
    if (["run", "view"].some((name) => changed.has(name))) showView();
    else if (["step", "text"].some((name) => changed.has(name))) drawNavigation();
  });
  showView();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address after # names the view
    $("main").focus();
  });
  addEventListener("hashchange", async () => {
    await follow(readAddress());
    $("main").focus({ preventScroll: true });
  });
}

/** Show what the address names. What is not here is said: then the present run, its newest step or its checkpoint is shown. */
async function follow({ view, run: name, step, session, text }) {
  const run = state.runs.find((other) => other.name === (name ?? state.run));
  const { steps } = run ?? chosenRun();
  const kept = step === null || steps.includes(step);
  change({ view, run: run?.name ?? state.run, step: run && kept && step !== steps.at(-1) ? step : null, text: text ?? state.text });
  const joined = await joinSession(run && kept ? session : null);
  const missing = run ? (kept ? (joined ? null : LEFT) : `${run.name} has no checkpoint of step ${step}: this is its newest one.`)
    : `There is no run ${name} here that can be read: this is ${state.run}.`;
  $("message").replaceChildren(missing ? h("p", { class: "note" }, missing) : "");
}

/** A link to the Runs view, which says why some runs cannot be read. */
function drawUnreadable() {
  const { unreadable: count } = state;
  $("unreadable").hidden = !count;
  $("unreadable").textContent = `${count} ${count === 1 ? "run" : "runs"} cannot be read`;
  $("unreadable").href = addressOf("runs");
}

start();
