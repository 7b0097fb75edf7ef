// The backward pass, node by node: the autograd graph, the step that is taken, and a table of all steps.

import { post } from "../api.js";
import { backwardGraph } from "../backward_graph.js";
import { gradientFigure, gradientLegend } from "../gradient_picture.js";
import { chosenLabel, labelField } from "../label.js";
import { chosenRun, state, subscribe } from "../state.js";
import { field, h, latest, number, showOnce } from "../ui.js";

const PAUSE = 1100; // milliseconds between the steps of Play
const chosen = { show: "example", block: 0, at: 0 }; // kept while other views are shown

export default {
  id: "backward",
  title: "Backward",
  section: "Learn",
  text: true,
  mount: (root) => new BackwardView(root).mount(),
};

class BackwardView {
  constructor(root) {
    this.root = root;
    this.work = latest(root);
    this.data = null;
    this.timer = null;
  }

  mount() {
    this.show = h("select", { onchange: () => this.choose({ show: this.show.value }) },
      h("option", { value: "example" }, "a small example: one neuron"),
      h("option", { value: "fused" }, "a block of the model, as it runs (fused)"),
      h("option", { value: "unfused" }, "a block of the model, every elementary op"));
    this.show.value = chosen.show;
    this.block = h("select", { onchange: () => this.choose({ block: Number(this.block.value) }) });
    this.blockField = field("block", this.block);
    this.label = labelField(() => this.update());
    this.buttons = {
      first: h("button", { onclick: () => this.go(0), "aria-label": "first step" }, "First"),
      back: h("button", { onclick: () => this.go(chosen.at - 1), "aria-label": "one step back" }, "◀ Back"),
      next: h("button", { class: "primary", onclick: () => this.go(chosen.at + 1), "aria-label": "next step" }, "Next ▶"),
      play: h("button", { onclick: () => this.play(!this.timer) }, "Play"),
    };
    this.slider = h("input", { type: "range", min: "0", value: "0", "aria-label": "step", class: "steps" });
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("role", "img");
    this.heading = h("h3", { "aria-live": "polite" });
    this.details = h("div");
    this.table = h("tbody");
    this.code = h("ol", { class: "code mono", hidden: true });
    this.summary = h("p", { class: "note" });
    this.root.append(...this.layout());
    this.fillBlocks();
    showOnce(this.root, this.update());
    const keys = (event) => this.key(event);
    document.addEventListener("keydown", keys);
    const unsubscribe = subscribe((changed) => {
      if (changed.has("run")) this.fillBlocks();
      const ofModel = ["run", "step", "session", "text"].some((name) => changed.has(name));
      if (ofModel && chosen.show !== "example") this.update();
    });
    return () => {
      this.play(false);
      this.work.stop();
      unsubscribe();
      document.removeEventListener("keydown", keys);
    };
  }

  layout() {
    const { first, back, next, play } = this.buttons;
    const small = (label, text, onclick) => h("button", { "aria-label": label, title: label, onclick }, text);
    return [
      h("h2", {}, "Backward, node by node"),
      h("p", {}, "Each box is one operation that the engine recorded; the arrows show how the loss was computed, from "
        + "top to bottom. The backward pass goes from the last node to the first. At each node it has g, the gradient of "
        + "the loss with respect to that node, and one rule for each argument computes the gradient that it sends on."),
      h("div", { class: "row" }, field("show", this.show), this.blockField, this.label.element),
      this.summary,
      h("div", { class: "row stepper" }, first, back, next, play, this.slider,
        h("span", { class: "note" }, "or the keys ← →")),
      h("div", { class: "backward-columns" },
        h("div", { class: "graph" }, this.svg,
          h("div", { class: "row" },
            small("zoom in", "+", () => this.graph?.scale(1.4)), small("zoom out", "−", () => this.graph?.scale(1 / 1.4)),
            small("fit the whole graph", "Fit", () => this.graph?.fit()),
            small("center the current node", "Current node", () => this.graph?.reveal(this.node(), { center: true })),
            h("span", { class: "note" }, "● current, ✓ visited, … gradient has arrived. Rounded boxes are leaves; a grey dashed "
              + "one is a constant, which needs no gradient. Drag to move, Ctrl + wheel to zoom."))),
        h("div", { class: "step-column" }, this.code,
          h("section", { class: "panel step", "aria-label": "the current step" }, this.heading, this.details)),
        this.tableOfSteps()),
    ];
  }

  tableOfSteps() {
    const columns = ["step", "node", "operation", "shape", "|g|", "state"].map((text) => h("th", { scope: "col" }, text));
    return h("div", { class: "table-column" },
      h("h3", {}, "All steps"),
      h("div", { class: "scroll steps-table", tabindex: "0", role: "region", "aria-label": "all steps" },
        h("table", {}, h("thead", {}, h("tr", {}, ...columns)), this.table)));
  }

  fillBlocks() {
    const count = chosenRun()?.config.n_layer ?? 1;
    chosen.block = Math.min(chosen.block, count - 1);
    this.block.replaceChildren(...Array.from({ length: count }, (_, i) => h("option", { value: String(i) }, String(i))));
    this.block.value = String(chosen.block);
  }

  choose(fields) {
    Object.assign(chosen, fields);
    if (fields.show) chosen.at = 0;
    this.play(false);
    this.update(Boolean(fields.show));
  }

  update() {
    const example = chosen.show === "example";
    this.blockField.hidden = example;
    const fields = example ? { example: true } : { text: state.text, label: chosenLabel(), block: chosen.block, fused: chosen.show === "fused" };
    return this.work(async (signal) => {
      this.draw(await post("/api/backward", fields, { signal }));
    });
  }

  // ----- drawing ------------------------------------------------------------------------------------------------

  draw(data) {
    this.data = data;
    this.label.show(data.labels, data.label);
    this.nodes = new Map(data.nodes.map((n) => [n.number, n]));
    this.order = new Map(data.steps.map((step, i) => [step.number, i]));
    this.arrived = new Map(data.steps.map(({ number }) => [number, []])); // who sends to a node, in order
    data.steps.forEach((step, i) => step.sends.forEach((sent) => this.arrived.get(sent.to).push({ ...sent, from: i })));
    this.gradients = new Map(data.steps.map((step) => [step.number, data.pictures[step.gradient].low]));
    this.summary.textContent = `${data.title}. Loss ${number(data.loss, 4)}${data.code ? "" : " nats"}. ${data.summary}.`;
    this.code.hidden = !data.code;
    this.code.replaceChildren(...data.code.split("\n").map((line) => h("li", {}, line)));
    this.slider.max = String(data.steps.length - 1);
    this.svg.setAttribute("aria-label", `graph of ${data.nodes.length} nodes; the table below lists the same nodes`);
    this.graph = backwardGraph(this.svg, data, (n) => this.order.has(n) && this.go(this.order.get(n)));
    this.table.replaceChildren(...data.steps.map((step, i) => this.row(step, i)));
    chosen.at = Math.max(0, Math.min(chosen.at, data.steps.length - 1));
    this.graph.start(this.node());
    this.go(chosen.at, false);
  }

  row(step, i) {
    const node = this.nodes.get(step.number);
    return h("tr", {},
      h("td", { class: "number" }, String(i + 1)),
      h("td", {}, h("button", { class: "link", onclick: () => this.go(i) }, title(node))),
      h("td", { class: "mono" }, node.op || "leaf"),
      h("td", { class: "mono" }, `(${node.shape.join(", ")})`),
      h("td", { class: "number" }, number(this.data.pictures[step.gradient].norm)),
      h("td", {}, ""));
  }

  node() {
    return this.nodes.get(this.data.steps[chosen.at].number);
  }

  /** Shows step `at`: the graph, the panel, the row of the table. */
  go(at, smooth = true) {
    if (!this.data || at < 0 || at >= this.data.steps.length) return this.play(false);
    chosen.at = at;
    const states = this.states();
    this.graph.show(states, this.gradients);
    this.graph.reveal(this.node(), { smooth });
    this.drawPanel();
    this.slider.value = String(at);
    this.slider.setAttribute("aria-valuetext", `step ${at + 1} of ${this.data.steps.length}: ${title(this.node())}`);
    this.buttons.first.disabled = this.buttons.back.disabled = at === 0;
    this.buttons.next.disabled = at === this.data.steps.length - 1;
    [...this.code.children].forEach((line) => setCurrent(line, line.textContent.startsWith(`${this.node().name} = `), "true"));
    this.data.steps.forEach((step, i) => {
      const row = this.table.children[i];
      setCurrent(row, i === at, "step");
      row.lastChild.textContent = { visited: "✓ visited", current: "● current", waiting: "… arrived", ahead: "" }[
        states.get(step.number)];
    });
    const row = this.table.children[at], box = this.table.closest(".scroll");
    if (row.offsetTop < box.scrollTop + 30 || row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) {
      box.scrollTop = row.offsetTop - box.clientHeight / 2;
    }
  }

  /** The state of each node by its number: visited, current, waiting (part of its gradient has arrived), ahead. */
  states() {
    return new Map(this.data.nodes.map(({ number }) => {
      const i = this.order.get(number);
      if (i === undefined) return [number, "constant"];
      if (i < chosen.at) return [number, "visited"];
      if (i === chosen.at) return [number, "current"];
      return [number, this.arrived.get(number).some((sent) => sent.from <= chosen.at) ? "waiting" : "ahead"];
    }));
  }

  drawPanel() {
    const step = this.data.steps[chosen.at], node = this.node();
    this.heading.textContent = `Step ${chosen.at + 1} of ${this.data.steps.length}: ${title(node)}`;
    this.details.replaceChildren(
      ...(node.op ? this.forward(node) : []),
      h("h4", {}, "Arrives"), h("p", {}, this.arrives(step)),
      gradientFigure(this.data.pictures[step.gradient], "g"),
      ...this.sends(step, node),
      this.data.code ? "" : gradientLegend());
  }

  /** What the node computed, from what, and what it kept for its rules. */
  forward(node) {
    const options = Object.entries(node.options).map(([name, text]) => `${name}=${text}`);
    const inputs = node.inputs.map(({ argument, number: n, text }) =>
      `${argument} = ${n ? title(this.nodes.get(n)) : text || "a constant that needs no gradient"}`);
    const kept = node.kept.map(({ name, shape, bytes: n }) => `${name} (${shape.join(", ")}) ${n ? bytes(n) : "held anyway"}`);
    return [
      h("h4", {}, `Forward: ${node.op}`),
      formula(node.formula),
      h("p", { class: "note" }, `Here ${[...inputs, ...options].join("; ")}. `, node.note),
      h("p", { class: "note" }, kept.length
        ? `Its rules asked to keep: ${kept.join("; ")}.` : "Its rules need nothing from the forward pass."),
    ];
  }

  /** Where the incoming gradient comes from. */
  arrives(step) {
    const parts = this.arrived.get(step.number);
    if (!parts.length && this.data.code) return "The gradient of the loss with respect to itself is 1.";
    if (!parts.length) return "From the later blocks, the final norm and the head, through which the engine went before.";
    const from = parts.map((sent) => `${title(this.nodes.get(this.data.steps[sent.from].number))} (as ${sent.argument})`);
    return from.length === 1 ? `From ${from[0]}.` : `The sum of ${from.length} gradients: from ${from.join(", and ")}.`;
  }

  /** A card for each derivative rule, or what a leaf does with its gradient. */
  sends(step, node) {
    if (!node.op) {
      const input = node.name.startsWith("stream");
      return [h("h4", {}, "Final"), h("p", {}, input
        ? "The input of the block: this gradient goes on to what computed it, the block before or the embeddings."
        : "A parameter: g is complete. backward adds it to its .grad, and the optimizer's step uses it.")];
    }
    return [h("h4", {}, "Sends"), h("div", { class: "sends" }, ...step.sends.map((sent) => {
      const to = this.nodes.get(sent.to);
      return h("div", { class: "sent" },
        h("div", {}, "to ", h("button", { class: "link", onclick: () => this.go(this.order.get(sent.to)) }, title(to)),
          ` by ${sent.argument}`),
        formula(sent.formula),
        sent.worked && sent.worked !== sent.formula ? h("div", { class: "rule mono" }, `= ${sent.worked}`) : null,
        h("p", { class: "note" }, sent.asked.length ? `It asks for ${sent.asked.join(", ")}. ` : null, sent.note),
        gradientFigure(this.data.pictures[sent.gradient], "result"));
    }))];
  }

  // ----- control --------------------------------------------------------------------------------------------------

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    const to = { ArrowLeft: chosen.at - 1, ArrowRight: chosen.at + 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.play(false);
    this.go(to);
  }

  play(on) {
    clearInterval(this.timer);
    this.timer = null;
    if (on && this.data) {
      if (chosen.at === this.data.steps.length - 1) this.go(0);
      this.timer = setInterval(() => this.go(chosen.at + 1), PAUSE);
    }
    this.buttons.play.textContent = this.timer ? "Pause" : "Play";
  }
}

/** "a * b, where a = ...; b = ..." with each definition on a line of its own. */
function formula(text) {
  const [expression, definitions] = text.split(", where ");
  const lines = definitions ? definitions.split("; ") : [];
  return h("div", { class: "rule mono" }, h("b", {}, expression),
    lines.map((line, i) => h("div", {}, i ? `      ${line}` : `where ${line}`)));
}

/** How a node is called in sentences: its name, or its op and number. */
function title(node) {
  return node.name || `${node.op || node.kind} #${node.number}`;
}

function setCurrent(element, current, value) {
  if (current) element.setAttribute("aria-current", value);
  else element.removeAttribute("aria-current");
}

function bytes(n) {
  return n < 1000 ? `${n} B` : n < 1e6 ? `${number(n / 1000)} kB` : `${number(n / 1e6)} MB`;
}
