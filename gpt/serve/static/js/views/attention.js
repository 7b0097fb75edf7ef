// Attention: all heads as thumbnails, one of them large, and one row of it as arcs over the text.

import { post } from "../api.js";
import { state, subscribe } from "../state.js";
import { floats, h, hideTip, latest, onTheme } from "../ui.js";
import { described, headsTable, thumbnails } from "./attention/heads.js";
import { attentionMap } from "./attention/map.js";
import { legend } from "./attention/palette.js";
import { attentionText, readsTable } from "./attention/text.js";

// The choices are kept when the checkpoint, the text or the view changes. At first the server chooses a clear head;
// a token of null is the last one.
const choice = { layer: null, head: null, token: null };

export default {
  id: "attention",
  title: "Attention",
  section: "Look inside",
  text: true,
  tasks: ["pretrain", "instruct", "classify"],
  mount,
};

function mount(root) {
  let data = null, weights = null; // the answer of the server, and the chosen head's weights, row by row
  let current = false; // the data is that of the present text and checkpoint
  const work = latest(root);
  const title = h("h3"), kind = h("p", { class: "note", role: "status" }), scale = h("div"), reads = h("div", { class: "scroll" });
  const text = attentionText({ point: show, leave: rest, pick });
  const map = attentionMap({ point: (row) => show(row, false), leave: rest, pick });
  const grid = thumbnails(choose), table = headsTable(choose);
  const parts = page({ text, map, grid, table, title, kind, scale, reads });
  parts.hidden = true;
  root.append(h("h2", {}, "Attention"), intro(), parts);

  function update() {
    current = false;
    work(load);
  }

  async function load(signal) {
    const { layer, head } = choice;
    data = await post("/api/attention", { text: state.text, layer, head }, { signal });
    current = true;
    parts.hidden = false;
    text.set(data.tokens);
    grid.set(data);
    table.set(data);
    scale.replaceChildren(legend(data.causal));
    take(data.chosen);
  }

  function choose(layer, head) {
    Object.assign(choice, { layer, head });
    if (!current) return update();
    work(async (signal) => {
      take(await post("/api/attention/head", { text: state.text, layer, head }, { signal }));
    });
  }

  function take(chosen) {
    Object.assign(choice, { layer: chosen.layer, head: chosen.head });
    weights = floats(chosen.weights);
    const { layers, heads } = data;
    title.textContent = `Block ${choice.layer}, head ${choice.head} (of ${layers} blocks with ${heads} heads, counted from 0)`;
    kind.textContent = described(data.shares[choice.layer * heads + choice.head], data.uniform);
    grid.mark(choice.layer, choice.head);
    table.mark(choice.layer, choice.head);
    map.set(data.tokens, weights, data.causal);
    rest();
    text.reveal(picked());
  }

  const picked = () => Math.min(choice.token ?? Infinity, data.tokens.length - 1);
  const row = (i) => weights.subarray(i * data.tokens.length, (i + 1) * data.tokens.length);

  function draw(i) {
    text.show(i, row(i), picked());
    reads.replaceChildren(readsTable(i, data.tokens, row(i)));
    grid.row(i, data.tokens.length);
  }

  /** Row `i`, which the text (with a tooltip) or the map points at. */
  function show(i, tip = true) {
    if (!weights) return;
    draw(i);
    if (!tip) return text.reveal(i);
    map.mark(i);
    text.tip(i, data.tokens, row(i));
  }

  /** Back to the picked token. */
  function rest() {
    hideTip();
    if (!weights) return;
    draw(picked());
    map.mark(picked());
  }

  function pick(i) {
    choice.token = i;
    draw(i);
  }

  const endTheme = onTheme(() => { if (data) { grid.set(data); map.draw(); scale.replaceChildren(legend(data.causal)); rest(); } });
  update();
  const end = subscribe((changed) => {
    if (changed.has("text") || changed.has("run")) choice.token = null;
    if (["run", "step", "session", "text"].some((name) => changed.has(name))) update();
  });
  return () => { end(); work.stop(); text.stop(); map.stop(); endTheme(); };
}

function intro() {
  return h("p", {},
    "Each head gives every token a weight for each token that it may read; the weights of a token sum to 100 %. ",
    "Point at a token to see what it reads in the chosen head; click a token to keep it.");
}

function page({ text, map, grid, table, title, kind, scale, reads }) {
  return h("div", {},
    title, kind,
    h("div", { class: "scroll arc-box" }, text.root),
    scale,
    h("div", { class: "attention-columns" },
      h("section", {},
        h("h3", {}, "All heads"),
        h("p", { class: "note" }, "Rows are blocks, columns are heads. In each picture a row is a token that reads, a column a ",
          "token that it reads from; the line is the token shown above. In a text of more than 64 tokens, a pixel is the ",
          "largest weight of a square."),
        h("div", { class: "scroll" }, grid.root)),
      h("section", { class: "chosen-head" },
        h("h3", {}, "The chosen head"),
        map.root, reads),
      h("section", {},
        h("h3", {}, "What each head reads"),
        h("p", { class: "note" },
          "The mean share of the weight on these tokens, from the second token on. \"Same token before\" and \"after same ",
          "token\" are means over the tokens that occurred before; a head with a large \"after same token\" is called an ",
          "induction head. Distance is the mean number of tokens between reader and source. Compare with \"uniform\", a ",
          "head with equal weights, before you give a head a name: the shares describe this text only."),
        table.root)));
}
