// The curves of the chosen run, its samples and checkpoints, live while it is trained.

import { get } from "../api.js";
import { keepSentence } from "../checkpoint.js";
import { onLive } from "../live.js";
import { legend, plot } from "../plot.js";
import { change, chosenRun, state, subscribe } from "../state.js";
import { arrange, field, figure, h, latest, percent, setText, showError, showOnce } from "../ui.js";

const SMOOTH = [1, 10, 30, 100, 300, 1000];
const PAUSE = 1500; // milliseconds between two requests for the curves
const LIVE = 60000; // milliseconds without a new line, after which training may have stopped
const FIRST = 12; // samples shown before "show all"
const options = { smooth: 30, log: false, newestFirst: true }; // kept while other views are shown

export default {
  id: "training",
  title: "Training",
  section: "Results",
  text: false,

  mount(root) {
    const work = latest(root);
    const status = h("p", { class: "status", role: "status" });
    const figures = h("dl", { class: "figures" });
    const notes = h("div", {});
    const area = h("div", { class: "plot-area" });
    const legends = h("div", {});
    const articles = h("div", { class: "samples" });
    const none = h("p", { class: "note", hidden: true }, "There are no samples yet: --sample-every says how often training writes one.");
    const more = h("button", { hidden: true, onclick: () => { all = true; drawSamples(); } });
    const written = new Map(); // the articles of the samples
    const chart = plot(area);
    let found = null, heard = 0, timer = null, all = false;

    const smooth = h("select", {}, SMOOTH.map((n) => h("option", { value: String(n), selected: n === options.smooth }, n === 1 ? "none" : `${n} steps`)));
    smooth.addEventListener("change", () => {
      options.smooth = Number(smooth.value);
      load();
    });
    const log = h("input", { type: "checkbox", checked: options.log });
    log.addEventListener("change", () => {
      options.log = log.checked;
      draw();
    });
    const order = h("input", { type: "checkbox", checked: options.newestFirst });
    order.addEventListener("change", () => {
      options.newestFirst = order.checked;
      drawSamples();
    });

    root.append(
      h("h2", {}, "Training"),
      h("p", {}, "The loss is the average of −log p over the correct answers, p being the probability that the model gives them: lower is better. ",
        "When the validation loss, on data that is not trained on, rises while the training loss falls, the model memorizes."),
      status, figures,
      h("div", { class: "row controls" }, field("running mean", smooth), field("logarithmic loss", log)),
      legends, area, notes,
      h("div", { class: "row" }, h("h3", {}, "Samples"), field("newest first", order)),
      articles, none, more,
    );

    const draw = () => {
      if (!found) return;
      drawFigures();
      const panels = panelsOf(found, options.log);
      area.hidden = legends.hidden = !panels.length;
      if (panels.length) {
        legends.replaceChildren(legend(legendOf(found)));
        chart.update({
          label: "step", xName: "step", panels, marks: found.steps,
          chosen: state.step ?? found.steps.at(-1),
          onPick: (step) => change({ step: step === found.steps.at(-1) ? null : step, session: null }),
        });
      }
      notes.replaceChildren(...notesOf(found).map((text) => h("p", { class: "note" }, text)));
      drawSamples();
    };
    const drawFigures = (line = null) => {
      status.textContent = statusOf(found, heard, line);
      const rows = figuresOf(found, line);
      figures.replaceChildren(...rows.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))));
    };
    const drawSamples = () => {
      const list = found.samples.length && options.newestFirst ? [...found.samples].reverse() : found.samples;
      const shown = all ? list : list.slice(0, FIRST);
      const chosen = state.step ?? found.steps.at(-1);
      arrange(articles, shown.map((sample) => articleOf(sample, sample.step === chosen)));
      for (const pre of articles.querySelectorAll("pre")) if (pre.scrollHeight > pre.clientHeight) pre.tabIndex = 0;
      none.hidden = list.length > 0;
      more.hidden = shown.length === list.length;
      setText(more, `show all ${list.length}`);
    };
    const articleOf = ({ step, text }, isChosen) => {
      const key = `${step} ${text}`; // an article stays while others come: it may have the focus
      if (!written.has(key)) written.set(key, h("article", { class: "panel" }, h("h4", {}), h("pre", {}, text)));
      setText(written.get(key).firstChild, `step ${step.toLocaleString("en")}${isChosen ? " · the chosen checkpoint" : ""}`);
      return written.get(key);
    };

    const fetchCurves = async (signal) => {
      const name = state.run;
      const answer = await get(`/api/runs/${encodeURIComponent(name)}/curves?smooth=${options.smooth}`, { signal });
      if (name !== state.run) return;
      found = answer;
      draw();
    };
    const load = () => work(fetchCurves);
    const soon = () => {
      timer ??= setTimeout(() => {
        timer = null;
        fetchCurves().catch((error) => showError(root, error)); // without the look of a view that waits
      }, PAUSE);
    };
    showOnce(root, load());
    const ends = [
      subscribe((changed) => {
        if (changed.has("run")) {
          all = false;
          heard = 0;
          written.clear();
          load();
        } else if (changed.has("step")) draw();
      }),
      onLive((name, data) => {
        if (name === "lines") {
          heard = Date.now();
          if (found) drawFigures(data.at(-1));
        }
        if (name === "checkpoints" && found && String(data.steps) === String(found.steps)) return;
        soon();
      }),
    ];
    return () => {
      clearTimeout(timer);
      work.stop();
      chart.stop();
      for (const end of ends) end();
    };
  },
};

// ----- what the answer means -------------------------------------------------------------------------------------

function statusOf({ finished, imported, last, total, curves }, heard, line) {
  const at = line?.step ?? last, of = total && total !== at ? ` of ${total.toLocaleString("en")}` : "";
  if (imported) return "This run was imported: it was not trained here, so it has no curves.";
  if (finished) return `Finished after step ${last.toLocaleString("en")}.`;
  if (Date.now() - heard < LIVE) return `Training: step ${at.toLocaleString("en")}${of}.`;
  return `Not finished: step ${at.toLocaleString("en")}${of}. New steps appear here as they are made.`;
}

function figuresOf({ curves, parameters, lowest }, line) {
  const rows = [["parameters", parameters.toLocaleString("en")]];
  const newest = (name) => curves[name]?.high.at(-1);
  if (curves.loss) rows.push(["loss of the last step", figure("loss", line?.loss ?? newest("loss"))]);
  if (lowest) rows.push(["lowest validation loss", `${figure("validation_loss", lowest.loss)} at step ${lowest.step.toLocaleString("en")}`]);
  if (curves.validation_accuracy) rows.push(["validation accuracy", figure("validation_accuracy", line?.validation_accuracy ?? newest("validation_accuracy"))]);
  for (const [name, curve] of Object.entries(curves)) {
    if (["loss", "norm", "lr", "validation_loss", "validation_accuracy", "training_accuracy"].includes(name)) continue;
    const value = curve.high.at(-1);
    rows.push([name.replaceAll("_", " "), figure(name, value)]);
  }
  return rows;
}

function panelsOf({ curves, task }, log) {
  const unit = task === "classify" ? "nats" : "nats per token";
  const line = (name, css, shown, more = {}) => curves[name] && { name: shown, css, x: curves[name].step, y: curves[name].smooth, ...more };
  const range = (name) => ({ low: curves[name]?.low, high: curves[name]?.high });
  const panels = [
    [`loss (${unit})`, 300, log, [line("loss", "c-training", "training loss", range("loss")), line("validation_loss", "c-validation", "validation loss", { dots: true })]],
    ["accuracy", 130, false, [line("training_accuracy", "c-training", "training accuracy", { dots: true, format: percent }), line("validation_accuracy", "c-validation", "validation accuracy", { dots: true, format: percent })]],
    ["norm of the gradient, before clipping", 90, false, [line("norm", "c-norm", "gradient norm", range("norm"))]],
    ["learning rate", 70, false, [line("lr", "c-rate", "learning rate")]],
  ];
  return panels
    .map(([title, height, logarithmic, lines]) => ({ title, height, log: logarithmic, lines: lines.filter(Boolean) }))
    .filter(({ lines }) => lines.length);
}

function legendOf({ curves }) {
  return [
    curves.loss && { css: "c-training", range: true, name: "training, each step" },
    curves.loss && { css: "c-training", name: "training, running mean" },
    curves.validation_loss && { css: "c-validation", dots: true, name: "validation" },
    { css: "c-mark", name: "▲ checkpoint: click near one, or press Enter, to choose it" },
  ].filter(Boolean);
}

function notesOf({ skipped, unreadable, keep }) {
  const few = keep && keep <= 4 ? keepSentence({ keep }) : null;
  return [
    few,
    skipped ? `${skipped} step${skipped === 1 ? " was" : "s were"} skipped, because loss or gradient was not finite.` : null,
    unreadable ? `${unreadable} line${unreadable === 1 ? "" : "s"} of metrics.jsonl cannot be read.` : null,
  ].filter(Boolean);
}
