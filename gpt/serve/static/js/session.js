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

/** All views show the checkpoint again; the server forgets the session. */
export function leaveSession() {
  change({ session: null });
}

let root = null;

function draw() {
  root.hidden = !state.session || !session;
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
    if (state.session && !changed.has("session") && (changed.has("run") || changed.has("step"))) return leaveSession();
    if (changed.has("session") && session && state.session !== session.id) {
      post("/api/learn/reset", { session: session.id }).catch(() => {}); // the server may have dropped it already
      session = null;
    }
    draw();
  });
}
