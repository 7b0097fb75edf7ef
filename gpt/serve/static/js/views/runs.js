// All runs of the server in a table; the curves of several on one plot, and the settings in which they differ.

import { get } from "../api.js";
import { onLive } from "../live.js";
import { plot } from "../plot.js";
import { addressOf, change, state, subscribe } from "../state.js";
import { arrange, field, figure, h, latest, setText, showOnce } from "../ui.js";

const MOST = 8; // runs on one plot
const SMOOTH = [1, 10, 30, 100, 300, 1000];
const PAUSE = 3000; // milliseconds between two requests while a run is trained
const MARK = "≠";
const options = { chosen: null, x: "step", log: false, smooth: 30, training: true, all: false }; // kept between visits

export default {
  id: "runs",
  title: "Runs",
  section: "Results",
  text: false,

  mount(root) {
    const work = latest(root);
    const table = region("runs");
    const limit = h("p", { class: "note", role: "status" });
    const legends = h("ul", { class: "legend" });
    const area = h("div", { class: "plot-area" });
    const notes = h("div", {});
    const tables = h("div", {});
    const results = region("results"), settings = region("settings"); // they keep their focus and how far they are scrolled
    const chart = plot(area);
    const body = h("tbody", {});
    const rows = new Map(); // by name: they stay while a run is trained, and their texts change
    let runs = [], found = null, timer = null;

    const select = (name, items) => {
      const element = h("select", {}, items.map(([value, text]) => h("option", { value: String(value), selected: options[name] === value }, text)));
      element.addEventListener("change", () => {
        options[name] = typeof items[0][0] === "number" ? Number(element.value) : element.value;
        if (name === "smooth") compare();
        else draw();
      });
      return element;
    };
    const check = (name) => {
      const box = h("input", { type: "checkbox", checked: options[name] });
      box.addEventListener("change", () => {
        options[name] = box.checked;
        draw();
      });
      return box;
    };
    root.append(
      h("h2", {}, "Runs"),
      h("p", {}, "All runs here. Choose several to see their curves on one plot and the settings in which they differ."),
      table, limit,
      h("div", { class: "row controls" },
        field("horizontal", select("x", [["step", "steps"], ["tokens", "tokens"]])),
        field("running mean", select("smooth", SMOOTH.map((n) => [n, n === 1 ? "none" : `${n} steps`]))),
        field("training loss", check("training")), field("logarithmic loss", check("log"))),
      legends, area, notes,
      h("div", { class: "row controls" }, h("h3", {}, "Settings and results"), field("all settings", check("all"))),
      tables,
    );

    const drawTable = () => {
      if (!table.firstChild) table.append(tableOf(body));
      for (const name of rows.keys()) if (!runs.some((run) => run.name === name)) rows.delete(name);
      for (const run of runs) {
        const kept = rows.get(run.name);
        const row = kept && kept.readable === !run.error ? kept : rowOf(run, toggle);
        rows.set(run.name, row); // a new one at the end: nothing moves under the pointer
        row.show(run);
      }
      arrange(body, [...rows.values()].map(({ element }) => element));
    };
    const toggle = (name, on) => {
      options.chosen = on ? [...options.chosen, name] : options.chosen.filter((other) => other !== name);
      if (options.chosen.length > MOST) options.chosen = options.chosen.slice(1);
      limit.textContent = on && options.chosen.length === MOST ? `At most ${MOST} runs are shown; choosing another takes out the first.` : "";
      for (const box of table.querySelectorAll("input")) box.checked = options.chosen.includes(box.value);
      compare();
    };
    const draw = () => {
      if (!found) return;
      const tokens = options.x === "tokens" && found.runs.some((run) => run.tokens_per_step);
      const lines = linesOf(found, tokens);
      const shown = lines.filter(({ x }) => x.length);
      area.hidden = !shown.length;
      if (shown.length) {
        const panels = [{ title: "loss (nats)", height: 320, log: options.log, lines: shown.filter(({ accuracy }) => !accuracy) }];
        const accuracies = shown.filter(({ accuracy }) => accuracy);
        if (accuracies.length) panels.push({ title: "validation accuracy", height: 110, lines: accuracies });
        chart.update({ label: tokens ? "tokens" : "step", xName: tokens ? "tokens" : "step", panels: panels.filter((panel) => panel.lines.length) });
      }
      legends.replaceChildren(...found.names.map((name, i) => h("li", {}, h("span", { class: `line-swatch c-run-${i}` }), `${i + 1} ${name}`)),
        ...(found.names.length && options.training ? [h("li", { class: "faint" }, "thick with points: validation · thin: training, running mean")] : []));
      const left = tokens ? found.names.filter((_, i) => !found.runs[i].tokens_per_step) : [];
      notes.replaceChildren(...[...found.notes, ...left.map((name) => `${name} is not shown: its steps have no fixed number of tokens.`)]
        .map((text) => h("p", { class: "note" }, text)));
      drawSettings();
    };
    const drawSettings = () => {
      const rows = options.all ? found.settings : found.settings.filter(({ differs }) => differs);
      const several = found.names.length > 1;
      const title = options.all ? "settings" : "settings that differ";
      results.replaceChildren(sideBySide("results", found.results, found.names, false));
      settings.replaceChildren(sideBySide(title, rows, found.names, several));
      settings.setAttribute("aria-label", title);
      const none = h("p", { class: "note" }, several ? "All settings are the same." : "Choose a second run to see the settings that differ.");
      const marks = h("p", { class: "note" }, `${MARK} marks what differs from the first run.`);
      arrange(tables, [...(several ? [marks] : []), results, rows.length ? settings : none]);
    };
    const compare = () => work(async (signal) => {
      if (!options.chosen.length) {
        found = null;
        area.hidden = true;
        for (const part of [legends, notes, tables]) part.replaceChildren();
        return notes.append(h("p", { class: "note" }, "Choose a run."));
      }
      const fields = new URLSearchParams(options.chosen.map((name) => ["run", name]));
      fields.set("smooth", options.smooth);
      found = await get(`/api/compare?${fields}`, { signal });
      draw();
    });
    const load = async () => {
      await work(async (signal) => {
        runs = await get("/api/runs/summary", { signal });
        const readable = runs.filter((run) => !run.error).map(({ name }) => name);
        options.chosen = options.chosen?.filter((name) => readable.includes(name)) ?? firstChoice(runs);
        drawTable();
      });
      if (options.chosen) await compare();
    };
    showOnce(root, load());
    const soon = () => {
      timer ??= setTimeout(() => {
        timer = null;
        load();
      }, PAUSE);
    };
    const ends = [onLive(soon), subscribe((changed) => changed.has("runs") && soon())];
    return () => {
      clearTimeout(timer);
      work.stop();
      chart.stop();
      for (const end of ends) end();
    };
  },
};

/** The chosen run and others of its task, up to three in all. */
function firstChoice(runs) {
  const curves = runs.filter((run) => run.last > 0);
  const task = curves.find(({ name }) => name === state.run)?.task;
  const others = curves.filter((run) => run.name !== state.run && run.task === task);
  return [...curves.filter(({ name }) => name === state.run), ...others].slice(0, 3).map(({ name }) => name);
}

function tableOf(body) {
  const head = ["", "run", "task", "steps", "parameters", "lowest validation loss", "last change"];
  return h("table", { class: "runs" },
    h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { scope: "col", class: [3, 4].includes(i) ? "number" : "" }, text || h("span", { class: "hidden-text" }, "compare"))))),
    body);
}

/** A row for a run: its element, and `show(run)`, which sets what changes while the run is trained. */
function rowOf({ name, error }, toggle) {
  if (error) {
    const note = h("td", { colspan: "5", class: "note" });
    return { readable: false, element: h("tr", {}, h("td", {}), h("td", {}, name), note), show: (run) => setText(note, run.error) };
  }
  const box = h("input", { type: "checkbox", value: name, "aria-label": `compare ${name}` });
  box.addEventListener("change", () => toggle(name, box.checked));
  const open = h("a", { href: addressOf("training") }, name);
  open.addEventListener("click", (event) => {
    event.preventDefault();
    change({ run: name, step: null, session: null, view: "training" });
  });
  const cells = ["", "number", "number", "", ""].map((kind) => h("td", { class: kind }));
  const show = (run) => {
    box.checked = options.chosen.includes(name);
    textsOf(run).forEach((text, i) => setText(cells[i], text));
  };
  return { readable: true, element: h("tr", {}, h("td", {}, box), h("td", {}, open), cells), show };
}

function textsOf(run) {
  const of = run.total && run.total !== run.last ? ` of ${run.total.toLocaleString("en")}` : "";
  const lowest = run.lowest ? `${figure("validation_loss", run.lowest.loss)} at step ${run.lowest.step.toLocaleString("en")}` : "none";
  return [
    run.imported ? "imported" : run.task, `${run.last.toLocaleString("en")}${of}${run.finished ? "" : ", not finished"}`,
    run.parameters.toLocaleString("en"), lowest, run.changed,
  ];
}

function linesOf({ names, runs }, tokens) {
  return names.flatMap((name, i) => {
    const { curves, tokens_per_step: scale } = runs[i];
    if (tokens && !scale) return [];
    const x = (curve) => (tokens ? curve.step.map((step) => step * scale) : curve.step);
    const end = Math.max(...Object.values(curves).map((curve) => x(curve).at(-1)));
    const line = (curve, what, more) => (curve ? [{ name: `${i + 1} ${name}: ${what}`, css: `c-run-${i}`, x: x(curve), y: curve.smooth, end, ...more }] : []);
    return [
      ...(options.training ? line(curves.loss, "training", { thin: true }) : []),
      ...line(curves.validation_loss, "validation", { dots: true }),
      ...line(curves.validation_accuracy, "accuracy", { dots: true, accuracy: true }),
    ];
  });
}

/** A part of the page that scrolls sideways, by keys too. */
function region(title) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title });
}

/** A table with a column for each run. With `mark`, values other than the first run's have a ≠ and a colour. */
function sideBySide(title, rows, names, mark) {
  return h("table", { class: "side-by-side" },
    h("caption", {}, title),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden-text" }, "name")),
      names.map((name, i) => h("th", { scope: "col" }, h("span", { class: `line-swatch c-run-${i}` }), name)))),
    h("tbody", {}, rows.map(({ name, values, differs }) => h("tr", { class: mark && differs ? "differs" : "" },
      h("th", { scope: "row" }, name), values.map((text) => {
        const other = mark && text !== values[0];
        return h("td", { class: other ? "other" : "" }, other ? `${MARK}\u00a0` : "", text);
      })))));
}
