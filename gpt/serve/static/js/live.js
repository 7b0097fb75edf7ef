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
  if (readable) change({ unreadable: runs.length - readable.length });
  if (readable?.length && JSON.stringify(readable) !== JSON.stringify(state.runs)) update(readable);
}

/** Set state.runs. Where the chosen run or checkpoint is gone, another is chosen; "newest" may mean another one. */
function update(runs) {
  const before = chosenRun(), now = runs.find(({ name }) => name === state.run);
  const newest = { step: null, session: null };
  if (!now) return change({ runs, run: runs[0].name, ...newest });
  if (state.step !== null && !now.steps.includes(state.step)) return change({ runs, ...newest });
  change({ runs });
  const newer = state.step === null && now.steps.at(-1) !== before.steps.at(-1);
  if (newer && !state.session) announce("step"); // a learning session goes on from the checkpoint that it began at
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
  const replace = (fields) => update(state.runs.map((other) => (other === chosenRun() ? { ...other, ...fields } : other)));
  if (name === "checkpoints" && String(data.steps) !== String(run.steps)) replace({ steps: data.steps });
  for (const listener of [...listeners]) listener(name, data);
  if (name === "finished") replace({ finished: true });
  if (name === "restart" || name === "problem") {
    source?.close();
    setTimeout(() => {
      followed = null;
      follow();
    }, AGAIN);
  }
}
