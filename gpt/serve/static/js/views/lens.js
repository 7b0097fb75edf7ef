// The logit lens: what each layer would predict at each position.

import { post, stream } from "../api.js";
import { layerChart, layerTable } from "../charts.js";
import { grid, legend } from "../grid.js";
import { tokenButton, tokenPicker } from "../picker.js";
import { chosenRun, state, subscribe } from "../state.js";
import { debounce, field, h, latest, number, percent, sequential, showOnce, tokenLabel, tokenText } from "../ui.js";

const FIRST = 10; // the position that is chosen at first: the beginning of the text is in view

// What the reader chose; it stays when the checkpoint or the view changes. null: the last layer, the true next token.
const chosen = { run: null, layer: null, position: null, token: null, scale: "probability" };

export default {
  id: "lens",
  title: "Logit lens",
  section: "Look inside",
  text: true,
  tasks: ["pretrain", "instruct", "classify"],

  mount(root) {
    let end = null;
    let kind = null;
    const update = () => {
      const wanted = chosenRun()?.task === "classify" ? labelView : tokenView;
      if (wanted !== kind) {
        end?.stop();
        root.replaceChildren();
        kind = wanted;
        end = wanted(root);
        showOnce(root, end.update());
      } else end.update();
    };
    update();
    const unsubscribe = subscribe((changed) => {
      if (["run", "step", "session", "text"].some((name) => changed.has(name))) update();
    });
    return () => {
      unsubscribe();
      end?.stop();
    };
  },
};

// ----- language models --------------------------------------------------------------------------------------------

function tokenView(root) {
  let lens = null; // { run, ids, names, layers, texts }
  let followed = null;
  const work = latest(root);
  const detail = h("div", { class: "panel" });
  const chart = h("div", { class: "panel" });
  const followWork = latest(chart);
  const table = grid("the most probable next token after each block at each position", {
    onSelect: (i, j) => choose({ layer: i, position: j, ...(j === at().position ? {} : { token: null }) }),
    tip: (i, j) => cellTip(lens, i, j),
  });
  const scale = h("div", { class: "row" });
  root.append(
    h("h2", {}, "Logit lens"),
    h("p", {}, "The last LayerNorm and the head turn the final residual stream into a prediction of the next token. ",
      "Here they are applied to the stream after every block: each cell shows the token that is then the most ",
      "probable one. Blocks run from top to bottom, and the last row is the model's prediction."),
    scale, table.element, h("div", { class: "columns" }, detail, chart),
  );

  const at = () => ({
    layer: Math.min(chosen.layer ?? Infinity, lens.layers.length - 1),
    position: Math.min(chosen.position ?? Math.max(0, Math.min(FIRST, lens.ids.length - 2)), lens.ids.length - 1),
  });
  const choose = (fields) => {
    const moved = "position" in fields && fields.position !== at().position;
    Object.assign(chosen, fields);
    drawDetail();
    if (moved) follow();
    else drawChart();
  };
  const pick = (id) => {
    chosen.token = id;
    drawDetail();
    follow();
  };
  const draw = () => {
    const color = shade();
    table.draw({
      columns: lens.ids.map((id) => tokenText(lens.texts[id])),
      rows: lens.layers.map((layer) => layer.name),
      head: "token read",
      foot: { name: "true next token", contents: [...lens.ids.slice(1).map((id) => tokenText(lens.texts[id])), ""] },
      cell: (i, j) => {
        const layer = lens.layers[i], p = layer.probabilities[j][0], text = lens.texts[layer.ids[j][0]];
        const framed = layer.true_rank[j] === 1;
        const note = framed ? ", the true next token" : "";
        const label = `${tokenLabel(text)}, ${percent(p)}, ${layer.name}, position ${j}${note}`;
        return { content: tokenText(text), color: color(p ?? 0), framed, label };
      },
    });
    const { layer, position } = at();
    table.select(layer, position);
    scale.replaceChildren(
      legend(color, ["probability 0", "1"]),
      h("span", { class: "legend" }, h("span", { class: "legend-frame" }), "the true next token"),
    );
  };
  const drawDetail = () => {
    const { layer: i, position: j } = at();
    const layer = lens.layers[i], next = lens.ids[j + 1];
    const best = layer.ids[j].map((id, n) => h("tr", {},
      h("td", {}, tokenButton({ id, text: lens.texts[id] }, pick, { pressed: id === current() })),
      h("td", { class: "bar-cell" }, bar(layer.probabilities[j][n])),
      h("td", { class: "number" }, percent(layer.probabilities[j][n]))));
    const truth = next === undefined ? h("p", { class: "note" }, "The text ends here: there is no true next token.")
      : h("p", {}, "The true next token ",
        tokenButton({ id: next, text: lens.texts[next] }, pick, { pressed: next === current() }),
        ` has rank ${number(layer.true_rank[j], 6)} and probability ${percent(layer.true_probability[j])}.`);
    const name = i === 0 ? "the embedding" : layer.name;
    detail.replaceChildren(
      h("h3", {}, `After ${name}, at position ${j}: `,
        h("span", { class: "token" }, tokenText(lens.texts[lens.ids[j]])), h("span", { class: "token next" }, " ?")),
      h("table", { class: "best" }, best), truth,
      h("p", { class: "note" }, "Choose a token to follow it through the blocks."),
    );
  };
  const current = () => chosen.token ?? lens.ids[at().position + 1] ?? lens.layers.at(-1).ids[at().position][0];
  const follow = debounce(() => lens.run === state.run && followWork(async (signal) => {
    const { position } = at();
    const next = lens.ids.slice(position + 1, position + 2); // none at the end
    const tokens = [...new Set([current(), ...next, ...lens.layers.at(-1).ids[position]])];
    followed = await post("/api/lens/follow", { text: state.text, position, tokens }, { signal });
    drawChart();
  }), 60);
  const picker = tokenPicker("another token", pick);
  const which = h("select", { onchange: () => { chosen.scale = which.value; drawChart(); } },
    h("option", { value: "probability" }, "probability"), h("option", { value: "rank" }, "rank"));
  which.value = chosen.scale;
  const picture = h("div", {});
  chart.append(
    h("h3", {}, "Tokens through the blocks"), h("div", { class: "row" }, field("show", which)), picker.element, picture,
  );
  const drawChart = () => {
    if (!followed) return;
    const { layers: names, ids, texts, probabilities, ranks } = followed;
    const lines = ids.map((id, i) => ({ id, text: texts[i], probabilities: probabilities[i], ranks: ranks[i] }));
    const width = Math.max(280, picture.clientWidth);
    const options = { names, lines, chosen: current(), scale: chosen.scale, width };
    const open = picture.querySelector("details")?.open ?? false;
    picture.replaceChildren(layerChart(options), layerTable(options));
    picture.querySelector("details").open = open;
  };

  const update = () => work(async (signal) => {
    if (chosen.run !== state.run) Object.assign(chosen, { run: state.run, token: null }); // another vocabulary
    const found = { run: state.run, layers: [], texts: {} };
    await stream("/api/lens", { text: state.text }, (item) => {
      Object.assign(found.texts, item.texts);
      if (item.names) Object.assign(found, { ids: item.ids, names: item.names });
      else found.layers.push(item);
    }, { signal });
    lens = found;
    draw();
    drawDetail();
    follow();
  });
  return { update, stop: () => { work.stop(); followWork.stop(); } };
}

/** The colour of a probability: by its square root, so that small ones differ. */
function shade() {
  const color = sequential();
  return (p) => color(Math.sqrt(p));
}

function bar(share) {
  const inner = h("span", { class: "amount" });
  inner.style.width = `${100 * (share ?? 0)}%`;
  return inner;
}

function cellTip(lens, i, j) {
  const layer = lens.layers[i];
  return h("table", {}, layer.ids[j].map((id, n) => h("tr", {},
    h("td", { class: "mono" }, tokenText(lens.texts[id])),
    h("td", { class: "number" }, percent(layer.probabilities[j][n])))));
}

// ----- classifiers ------------------------------------------------------------------------------------------------

const PLACES = {
  last: "the last position of the padded text", "last-real": "the text's last token",
  first: "the first token", mean: "the mean over the text's tokens",
};

function labelView(root) {
  const work = latest(root);
  const where = h("p", { class: "note" });
  const scale = h("div", { class: "row" });
  let found = null;
  const table = grid("the probability of each label after each block", {
    onSelect: () => {},
    tip: (i, j) => `${found.layers[i]}: ${found.labels[j]} ${percent(found.probabilities[i][j])}`,
  });
  root.append(
    h("h2", {}, "Logit lens"),
    h("p", {}, "The last LayerNorm and the classifier's head turn the final residual stream into the probability of ",
      "each label. Here they are applied to the stream after every block. The last row is the model's prediction."),
    where, scale, table.element,
  );
  const update = () => work(async (signal) => {
    found = await post("/api/lens/labels", { text: state.text }, { signal });
    const color = shade();
    table.draw({
      columns: found.labels, rows: found.layers, head: "label",
      cell: (i, j) => {
        const p = found.probabilities[i][j];
        const label = `${percent(p)} ${found.labels[j]}, ${found.layers[i]}`;
        return { content: percent(p), color: color(p ?? 0), label };
      },
    });
    where.textContent = `This classifier reads the stream at ${PLACES[found.position]}.`;
    scale.replaceChildren(legend(color, ["probability 0", "1"]));
  });
  return { update, stop: () => work.stop() };
}
