// The embeddings: nearest tokens, the positions as a map, the text's tokens as a map.

import { post } from "../api.js";
import { scatter, similarityChart } from "../charts.js";
import { legend } from "../grid.js";
import { tokenButton, tokenPicker } from "../picker.js";
import { chosenRun, state, subscribe } from "../state.js";
import {
  cssColor, debounce, diverging, field, floats, h, hideTip, latest, number, percent, sequential, showOnce, showTip, tokenText,
} from "../ui.js";

// What the reader chose; it stays when the checkpoint or the view changes, and the token as long as the run does.
const chosen = { run: null, token: null, position: 0 };

export default {
  id: "embeddings",
  title: "Embeddings",
  section: "Look inside",
  text: true,
  tasks: ["pretrain", "instruct", "classify"],

  mount(root) {
    root.append(
      h("h2", {}, "Embeddings"),
      h("p", {}, "The model's first step is a look-up: each token has a learned vector, and so has each position. ",
        "Vectors are compared by cosine similarity: 1 is the same direction, 0 is orthogonal, −1 is opposite."),
    );
    const parts = [nearestPanel(root), tokenPanel(root), positionPanel(root)];
    const update = (changed) => parts.map((part) => part.update(changed));
    showOnce(root, ...update(null));
    const unsubscribe = subscribe((changed) => {
      if (["run", "step", "session", "text"].some((name) => changed.has(name))) update(changed);
    });
    return () => {
      unsubscribe();
      hideTip();
      parts.forEach((part) => part.stop());
    };
  },
};

/** Whether another model is shown, not only another text. */
const newModel = (changed) => !changed || ["run", "step", "session"].some((name) => changed.has(name));

// ----- nearest tokens ---------------------------------------------------------------------------------------------

function nearestPanel(root) {
  const section = h("section", { class: "panel" });
  const own = h("div", { class: "row token-choice" });
  const result = h("div", {});
  const work = latest(result);
  const pick = (id) => {
    chosen.token = id;
    update(null);
  };
  const picker = tokenPicker("find a token by its text or id", pick);
  section.append(h("h3", {}, "Which tokens are near a token?"), picker.element, own, result);
  root.append(section);
  const update = (changed) => work(async (signal) => {
    if (chosen.run !== state.run) Object.assign(chosen, { run: state.run, token: null }); // another vocabulary
    const { tokens } = await post("/api/tokens", { text: state.text }, { signal });
    const different = [...new Map(tokens.map((token) => [token.id, token])).values()].slice(0, 40);
    const longest = d3.greatest(different, ({ text }) => text.trim().length); // the first of them
    chosen.token ??= longest.id;
    const buttons = different.map((token) => tokenButton(token, pick, { pressed: token.id === chosen.token }));
    own.replaceChildren(h("span", { class: "faint" }, "in the text"), ...buttons);
    if (changed && !newModel(changed)) return;
    const near = await post("/api/embeddings/nearest", { token: chosen.token }, { signal });
    result.replaceChildren(...nearestLists(near, pick));
  });
  return { update, stop: () => work.stop() };
}

function nearestLists(near, pick) {
  const width = chosenRun().config.n_embd;
  const line = ({ id, text, cosine }) => {
    const bar = h("span", { class: "amount" });
    bar.style.width = `${100 * Math.max(0, cosine)}%`;
    return h("tr", {}, h("td", {}, tokenButton({ id, text }, pick)), h("td", { class: "bar-cell" }, bar),
      h("td", { class: "number" }, cosine === null ? "not finite" : cosine.toFixed(3)));
  };
  const list = (title, items) => h("div", {}, h("h3", {}, title), h("table", { class: "best" }, items.map(line)));
  return [
    h("p", {}, "Nearest to ", h("span", { class: "token boxed" }, tokenText(near.text)), ` (id ${near.id}). `,
      `Its vector has the norm ${number(near.norm)}; the mean over the vocabulary is ${number(near.mean_norm)}.`),
    h("div", { class: "columns" },
      list("Rows of the token embedding", near.embedding), near.head && list("Rows of the head", near.head)),
    h("p", { class: "note" }, near.head
      ? "The head has a row for each token, too: the direction in which the stream must point for it to be predicted."
      : "The head of this model is the same matrix as the token embedding, or predicts labels, so there is one list."),
    h("p", { class: "note" }, `For comparison: two random vectors of ${width} numbers have a cosine of about `,
      `±${(1 / Math.sqrt(width)).toFixed(3)}.`),
  ];
}

// ----- the text's tokens ------------------------------------------------------------------------------------------

function tokenPanel(root) {
  const section = h("section", { class: "panel" });
  const note = h("p", { class: "note" }), picture = h("div", {});
  const work = latest(section);
  section.append(h("h3", {}, "The text's tokens as a map"), note, picture);
  root.append(section);
  const update = () => work(async (signal) => {
    const { texts, components, explained } = await post("/api/embeddings/map", { text: state.text }, { signal });
    const color = cssColor("accent");
    const points = components.map(([x, y], i) => ({ x, y, text: texts[i], color }));
    picture.replaceChildren(scatter(points, {
      name: `the ${points.length} different tokens of the text on two axes`, axes: axesOf(explained), labels: true,
      width: Math.max(280, Math.min(picture.clientWidth, 700)),
    }));
    note.textContent = "The embeddings of the text's different tokens, projected on the two axes along which they " +
      `vary most (principal components). They hold ${percent(explained[0] + explained[1])} of the variance; the rest ` +
      "is not visible here.";
  });
  return { update, stop: () => work.stop() };
}

const axesOf = (explained) => explained.map((share, i) => `component ${i + 1}: ${percent(share)}`);

/** Draws an n x n matrix of numbers from -1 to 1, a pixel each; CSS enlarges it. Faster than heatMap of ui.js. */
function drawMatrix(canvas, values, n, color) {
  const palette = d3.range(-1, 1.005, 0.01).map((x) => d3.rgb(color(x)));
  canvas.width = canvas.height = n;
  const context = canvas.getContext("2d");
  const image = context.createImageData(n, n);
  values.forEach((value, i) => {
    const { r, g, b } = palette[Math.max(0, Math.min(200, Math.round(100 * value + 100)))] ?? palette[100];
    image.data.set([r, g, b, 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

// ----- positions --------------------------------------------------------------------------------------------------

function positionPanel(root) {
  const section = h("section", { class: "panel" });
  const work = latest(section);
  const note = h("p", { class: "note" }), scale = h("div", { class: "row" });
  const canvas = h("canvas", { class: "position-map", role: "img" });
  const slider = h("input", { type: "range", min: "0", "aria-label": "position" });
  const output = h("output", { class: "mono" });
  const line = h("div", {}), map = h("div", {});
  let found = null;
  section.append(
    h("h3", {}, "The positions as a map"), note, scale,
    h("div", { class: "row" }, field("position", slider), output),
    h("div", { class: "columns" }, h("div", {}, canvas), h("div", {}, line, map)),
  );
  root.append(section);
  const pixel = (event) => {
    const box = canvas.getBoundingClientRect();
    const place = (value, size) => Math.max(0, Math.min(found.n - 1, Math.floor((value / size) * found.n)));
    return [place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)];
  };
  canvas.addEventListener("pointermove", (event) => {
    if (!found) return;
    const [i, j] = pixel(event);
    const text = `positions ${i * found.stride} and ${j * found.stride}: ${found.values[i * found.n + j].toFixed(3)}`;
    showTip({ left: event.clientX + 10, top: event.clientY, bottom: event.clientY + 10 }, text);
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => found && choose(pixel(event)[0]));
  slider.addEventListener("input", () => choose(Number(slider.value)));
  const choose = (i) => {
    chosen.position = i * found.stride;
    slider.value = i;
    drawPosition();
  };
  const drawPosition = () => {
    const i = Number(slider.value), { n, stride, values, components, explained } = found;
    output.textContent = String(i * stride);
    slider.setAttribute("aria-valuetext", `position ${i * stride}`);
    const points = d3.range(n).map((j) => [j * stride, values[i * n + j]]);
    line.replaceChildren(similarityChart(points, i * stride, Math.max(280, line.clientWidth)));
    const color = sequential();
    const shade = (t) => color(0.25 + (0.75 * t) / components.length);
    const places = components.map(([x, y], t) => ({ x, y, text: `position ${t}`, color: shade(t) }));
    map.replaceChildren(scatter(places, {
      name: "the positions on two axes", axes: axesOf(explained), path: true, at: i * stride,
      width: Math.max(280, Math.min(map.clientWidth, 520)),
    }));
  };
  const draw = () => {
    const { n, stride, values } = found, color = diverging();
    drawMatrix(canvas, values, n, color);
    canvas.setAttribute("aria-label", `cosine similarities of ${n} x ${n} positions; the chart shows one row of them`);
    slider.max = String(n - 1);
    slider.value = String(Math.min(n - 1, Math.round(chosen.position / stride)));
    const every = stride > 1 ? ` Every ${stride}th position is shown.` : "";
    note.textContent = "First picture: the cosine similarity of the vectors of any two positions; position 0 is at " +
      `the top left.${every} Then one row of it, and all positions on the two axes along which they vary most, each in ` +
      `a stronger colour than the one before. The axes hold ${percent(found.explained[0] + found.explained[1])} of the ` +
      "variance. After long training, positions that are near each other have similar vectors and lie on a curve; " +
      "vectors that training has hardly changed stay random.";
    scale.replaceChildren(legend(color, ["−1", "1"], { low: -1 }));
    drawPosition();
  };
  const update = (changed) => newModel(changed) && work(async (signal) => {
    const { similarity, ...rest } = await post("/api/embeddings/positions", {}, { signal });
    const values = floats(similarity);
    found = { ...rest, values, n: Math.round(Math.sqrt(values.length)) };
    draw();
  });
  const resized = debounce(() => found && drawPosition(), 200);
  addEventListener("resize", resized);
  return { update, stop: () => { work.stop(); removeEventListener("resize", resized); } };
}
