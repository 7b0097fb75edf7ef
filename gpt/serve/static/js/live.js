// News of the chosen run while it is trained: its checkpoints in state.runs, and events for views that show curves.
// One stream of server-sent events, open only while the page is visible: a browser allows few connections to a server.

import { get } from "./api.js";
import { announce, change, chosenRun, state, subscribe } from "./state.js";

const EVENTS = ["lines", "samples", "checkpoints", "finished", "restart", "problem"];
const AGAIN = 3000, REFRESH = 20000; // milliseconds
const listeners = new Set();
let source = null;
let followed = null; // the name of the run that `source` is about

/** Call `listener(name, data)` for each event of the chosen run (serve/live.py); returns a function that ends that. */
export function onLive(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Begin to follow the chosen run, whichever it is. */
export function startLive() {
  follow();
  subscribe((changed) => {
    if (changed.has("run") || changed.has("runs")) follow();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) refreshRuns();
    follow();
  });
  addEventListener("look-missing", refreshRuns); // a request named a checkpoint or run that is gone (api.js)
  setInterval(() => document.hidden || refreshRuns(), REFRESH);
}

/** The runs as they are now: new ones, and their kept checkpoints. */
export async function refreshRuns() {
  const runs = await get("/api/runs").catch(() => null); // the server has ended; the next request says so
  const readable = runs?.filter((run) => !run.error);
  if (!readable?.length) return;
  const before = chosenRun();
  if (JSON.stringify(readable) !== JSON.stringify(state.runs)) change({ runs: readable });
  if (!chosenRun()) change({ run: readable[0].name, step: null, session: null });
  else checkStep(before?.steps);
}

function follow() {
  const run = chosenRun();
  const wanted = run && !run.finished && !document.hidden ? run.name : null;
  if (wanted === followed) return;
  source?.close();
  source = null;
  followed = wanted;
  if (wanted === null) return;
  source = new EventSource(`/api/runs/${encodeURIComponent(wanted)}/events?position=now`);
  for (const name of EVENTS) source.addEventListener(name, (event) => receive(name, JSON.parse(event.data)));
}

function receive(name, data) {
  const run = chosenRun();
  if (!run || run.name !== followed) return;
  if (name === "checkpoints" && String(data.steps) !== String(run.steps)) {
    const before = run.steps;
    replace({ ...run, steps: data.steps });
    checkStep(before);
  }
  for (const listener of [...listeners]) listener(name, data);
  if (name === "finished") replace({ ...chosenRun(), finished: true });
  if (name === "restart" || name === "problem") {
    source?.close();
    setTimeout(() => {
      followed = null;
      follow();
    }, AGAIN);
  }
}

function replace(run) {
  change({ runs: state.runs.map((other) => (other.name === run.name ? run : other)) });
}

/** After the kept checkpoints changed: "newest" means another one, or the chosen one is gone. */
function checkStep(before) {
  const steps = chosenRun()?.steps ?? [];
  if (state.step !== null && !steps.includes(state.step)) change({ step: null, session: null });
  else if (state.step === null && before && steps.at(-1) !== before.at(-1)) announce("step");
}
