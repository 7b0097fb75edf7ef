// What all views share: the chosen run, checkpoint and text. It is kept in the address, so that a view can be shared.

const listeners = new Set();

export const state = {
  runs: [], // as from /api/runs, without those that cannot be read
  unreadable: 0, // the number of those
  run: null, // name of the chosen run
  step: null, // step of the chosen checkpoint; null: the newest
  session: null, // a learning session (Learn), whose weights replace the checkpoint's
  text: "",
  view: null,
};

/** The chosen run's entry in state.runs. */
export function chosenRun() {
  return state.runs.find((run) => run.name === state.run) ?? null;
}

/** Change fields of the state; listeners get the set of changed names. */
export function change(fields) {
  const changed = new Set(Object.keys(fields).filter((name) => state[name] !== fields[name]));
  if (!changed.size) return;
  Object.assign(state, fields);
  writeAddress();
  for (const listener of [...listeners]) {
    if (listeners.has(listener)) listener(changed); // an earlier one may have unmounted the view of a later one
  }
}

/** Tell the listeners that what `name` means has changed, although its value has not: null is another checkpoint. */
export function announce(name) {
  for (const listener of [...listeners]) listener(new Set([name]));
}

/** Call `listener` with the set of changed names at every change; returns a function that ends that. */
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The fields in the address: #view?run=...&step=...&session=...&text=... What is missing there is null. */
export function readAddress() {
  const [view, query] = location.hash.slice(1).split("?");
  const fields = new URLSearchParams(query ?? "");
  const step = fields.get("step");
  return {
    view: view || null,
    run: fields.get("run"),
    step: step === null ? null : Number(step),
    session: fields.get("session"),
    text: wholeText(fields.get("text")),
  };
}

const IN_ADDRESS = 1000; // characters of the text; a longer one is kept in the tab's storage

/** The text that begins as the one in an address, if the page or this tab knows it. */
function wholeText(text) {
  const known = [state.text, sessionStorage.getItem("text") ?? ""];
  return known.find((other) => other.length > IN_ADDRESS && beginning(other) === text) ?? text;
}

/** As much of a text as the address has, without half a surrogate pair. */
function beginning(text) {
  return text.slice(0, IN_ADDRESS).replace(/[\ud800-\udbff]$/, "");
}

function writeAddress() {
  history.replaceState(null, "", addressOf(state.view));
  if (state.text.length > IN_ADDRESS) sessionStorage.setItem("text", state.text);
}

/** The address of a view with the present run, checkpoint, learning session and text. */
export function addressOf(view) {
  const fields = new URLSearchParams();
  if (state.run) fields.set("run", state.run);
  if (state.step !== null) fields.set("step", state.step);
  if (state.session) fields.set("session", state.session);
  fields.set("text", beginning(state.text)); // also "", so that an empty text is still empty after a reload
  return `#${view}?${fields}`;
}
