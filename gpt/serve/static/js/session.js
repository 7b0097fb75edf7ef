// The learning session: a badge in the header while all views show a model that has learned in the Learn view.

import { post } from "./api.js";
import { change, state, subscribe } from "./state.js";
import { h } from "./ui.js";

let session = null; // { id, step, losses, ... } as from the server

/** All views show this session's model from now on. */
export function keepSession(described) {
  session = described;
  change({ session: described.id });
  draw();
}

/** Show the session that an address names. If the server does not have it: false, and the checkpoint is shown. */
export async function joinSession(id) {
  if (!id || id === state.session) return true;
  try {
    keepSession((await post("/api/learn/session", { session: id })).session);
    return true;
  } catch {
    leaveSession();
    return false;
  }
}

/** All views show the checkpoint again; the server forgets the session. */
export function leaveSession() {
  left = true;
  change({ session: null });
  left = false;
}

let root = null;
let left = false; // by the button: then nothing needs to be said

function draw(dropped = 0) {
  root.hidden = !(state.session && session) && !dropped;
  if (dropped) return root.replaceChildren(h("span", { class: "note" }, `${dropped === 1 ? "The learned step was" : `The ${dropped} learned steps were`} dropped: this is a checkpoint.`));
  if (root.hidden) return root.replaceChildren();
  const count = session.losses.length;
  const from = session.step === null ? "checkpoint" : `checkpoint step ${session.step.toLocaleString("en")}`;
  root.replaceChildren(
    h("span", { class: "session-badge" }, `${from} + ${count} ${count === 1 ? "step" : "steps"} on your text`),
    h("button", { type: "button", onclick: leaveSession }, "Return to the checkpoint"),
  );
}

export function mountSession(element) {
  root = element;
  subscribe((changed) => {
    const other = changed.has("run") || changed.has("step"); // another model
    if (state.session && !changed.has("session") && other) return change({ session: null });
    if (!changed.has("session") && !other) return;
    let dropped = 0;
    if (changed.has("session") && session && state.session !== session.id) {
      post("/api/learn/reset", { session: session.id }).catch(() => {}); // the server may have dropped it already
      dropped = left ? 0 : session.losses.length;
      session = null;
    }
    draw(dropped);
  });
}
