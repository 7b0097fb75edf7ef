// One step of learning on the text: the loss before, the gradient, the update, the loss after; undo; vanishing gradients.

import { post, ServerError, stream } from "../api.js";
import { chosenLabel, labelField } from "../label.js";
import { controls } from "../learn/controls.js";
import { story } from "../learn/story.js";
import { vanishing } from "../learn/vanishing.js";
import { keepSession, leaveSession } from "../session.js";
import { state, subscribe } from "../state.js";
import { h, latest, onTheme, showOnce } from "../ui.js";

const GONE = "The server does not have this learning session any more: it keeps those that were used last. " +
  "The page shows the checkpoint again.";

export default {
  id: "learn",
  title: "One step",
  section: "Learn",
  text: true,

  mount(root) {
    const notice = h("div", {});
    const tale = h("div", {});
    const more = h("section", { class: "panel" });
    const read = latest(notice), act = latest(notice);
    let shown = null; // { first, last, count }: the newest steps
    let stepping = false;
    let wanted = null; // the label that the next step learns, of a classifier

    const label = labelField(() => {
      refresh();
      compare.update();
    });
    const panel = controls({ onSteps: run, onUndo: undo, onReset: leaveSession, onStop: () => act.stop(), label: label.element });
    const view = story(tale);
    root.append(
      h("h2", {}, "One step of learning"),
      h("p", {}, "The model predicts each token of the text from the tokens before it; a classifier predicts a label. One step of " +
        "training changes all weights a little, so that these predictions improve. The step is taken on a copy: the run is not changed."),
      panel.element, notice, tale, more,
    );
    const compare = vanishing(more);

    /** The losses of the text, and the newest step if it was on this text. */
    const refresh = (again = false) => read(async (signal) => {
      try {
        const now = await post("/api/learn/before", { text: state.text, label: chosenLabel() }, { signal });
        if (again || !shown) {
          const last = state.session ? (await post("/api/learn/session", {}, { signal })).result : null;
          shown = last && { first: last, last, count: 1 };
        }
        label.show(now.labels, now.label);
        wanted = now.label;
        panel.settings(now);
        panel.session(now.session);
        if (now.session) keepSession(now.session); // it may be a step further than the page has seen
        view.draw(now, shown && sameTask(shown.last, now) ? shown : null);
      } catch (error) {
        if (!(await gone(error))) throw error;
      }
    });

    /** Whether an error is about a session that the server has dropped; then the page is back at the checkpoint. */
    async function gone(error) {
      if (error.name === "AbortError" || !state.session) return false;
      const status = error.status ?? (await post("/api/learn/session").then(() => null, (other) => other.status));
      if (status !== 404) return false;
      leaveSession();
      notice.replaceChildren(h("p", { class: "dropped", role: "alert" }, GONE));
      return true;
    }

    function run(options) {
      act(async (signal) => {
        let first = null, described = null;
        notice.replaceChildren();
        if (!Number.isFinite(options.lr)) throw new ServerError("the learning rate must be a number, such as 0.001");
        stepping = true;
        panel.begin();
        try {
          await stream("/api/learn/step", { text: state.text, label: wanted, ...options }, ({ progress, result, session }) => {
            if (progress) return panel.progress(progress);
            first ??= result;
            described = session;
            shown = { first, last: result, count: session.losses.length - first.rule.count + 1 };
            panel.session(session);
            view.step(shown);
          }, { signal });
        } catch (error) {
          if (!(await gone(error))) throw error;
        } finally {
          if (described) keepSession(described);
          stepping = false;
          panel.end();
          if (signal.aborted && state.session && root.isConnected) refresh(true); // the server may be a step further
          compare.update();
        }
      });
    }

    function undo() {
      act(async (signal) => {
        try {
          const { session, result } = await post("/api/learn/undo", {}, { signal });
          shown = result && { first: result, last: result, count: 1 };
          keepSession(session);
          await refresh();
          compare.update();
        } catch (error) {
          if (!(await gone(error))) throw error;
        }
      });
    }

    showOnce(root, refresh());
    const endTheme = onTheme(() => view.redraw());
    const unsubscribe = subscribe((changed) => {
      if (!["run", "step", "session", "text"].some((name) => changed.has(name))) return;
      if (changed.has("session") && state.session) return; // of this view's own step
      if (stepping) act.stop();
      if (changed.has("session") || changed.has("run") || changed.has("step")) {
        shown = null;
        panel.session(null);
      }
      refresh();
      compare.update();
    });
    return () => {
      unsubscribe();
      endTheme();
      act.stop();
      read.stop();
      compare.stop();
    };
  },
};

/** Whether a step was on the text, and for the label, that `now` is about. */
function sameTask(step, now) {
  return step.label === now.label && step.tokens.join("\0") === now.tokens.join("\0");
}
