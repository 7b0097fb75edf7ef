// One head's weights as a large heat map with the tokens on both axes.

import { cssColor, field, h, hideTip, number, showTip, tokenLabel } from "../../ui.js";
import { weightColor } from "./palette.js";

const LETTERS = 12; // of a label
const FONT = 11; // pixels
const MOST_PIXELS = 8000; // of a side of a canvas

/** `point(row)` and `leave()` follow pointer and keys, `pick(row)` a click. */
export function attentionMap({ point, leave, pick }) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const marks = d3.create("svg").attr("class", "map-marks").attr("aria-hidden", "true").node();
  const surface = h("div", {
    class: "map-surface", tabindex: "0", role: "application",
    "aria-label": "map of attention weights: arrow keys move to another row or column, Enter picks the row",
  }, canvas, marks);
  const size = h("input", { type: "range", min: "2", max: "28", step: "1" });
  const automatic = h("input", { type: "checkbox", checked: true });
  const value = h("p", { class: "note map-value", role: "status" });
  const box = h("div", { class: "scroll map-box" }, surface);
  const root = h("div", {}, box, value, h("div", { class: "row note" },
    field("cell size in pixels", size), h("label", {}, automatic, " fit the width")));
  let tokens = [], weights = new Float32Array(0), causal = true;
  let cell = 8, left = 0, top = 0, cursor = [0, 0], marked = null;

  function set(newTokens, newWeights, newCausal) {
    [tokens, weights, causal] = [newTokens, newWeights, newCausal];
    cursor = cursor.map((i) => Math.min(i, tokens.length - 1));
    draw();
  }

  const label = (i) => [...tokenLabel(tokens[i].text)].slice(0, LETTERS).join("");

  function draw() {
    const T = tokens.length;
    if (!T) return;
    const context = canvas.getContext("2d");
    const font = `${FONT}px ${cssColor("mono")}`;
    context.font = font;
    const longest = Math.max(...tokens.map((_, i) => context.measureText(label(i)).width));
    left = top = Math.ceil(longest) + 10;
    if (automatic.checked) size.value = Math.floor((box.clientWidth - left - 4) / T);
    cell = Math.min(Number(size.value), Math.floor(MOST_PIXELS / T) || 1);
    const [width, height] = [left + T * cell + 4, top + T * cell + 4];
    const sharp = width * devicePixelRatio < 2 * MOST_PIXELS ? devicePixelRatio : 1;
    [canvas.width, canvas.height] = [width * sharp, height * sharp];
    [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
    marks.setAttribute("width", width);
    marks.setAttribute("height", height);
    context.scale(sharp, sharp);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture(), left, top, T * cell, T * cell);
    drawLabels(context, font);
    mark(marked);
  }

  /** The weights as an image of T x T pixels. */
  function picture() {
    const T = tokens.length;
    const image = new ImageData(T, T);
    const rgb = (color) => { const { r, g, b } = d3.rgb(color); return [r, g, b, 255]; };
    const color = weightColor();
    const colors = Array.from({ length: 1001 }, (_, i) => rgb(color(i / 1000)));
    const none = rgb(cssColor("line"));
    for (let i = 0; i < T; i++) {
      for (let k = 0; k < T; k++) {
        image.data.set(causal && k > i ? none : colors[Math.round(1000 * weights[i * T + k])], 4 * (i * T + k));
      }
    }
    const small = h("canvas", { width: T, height: T });
    small.getContext("2d").putImageData(image, 0, 0);
    return small;
  }

  function drawLabels(context, font) {
    context.font = font;
    context.fillStyle = cssColor("text");
    const every = Math.ceil(FONT / cell);
    for (let i = 0; i < tokens.length; i += every) {
      const middle = (i + 0.5) * cell + FONT / 3;
      context.textAlign = "right";
      context.fillText(label(i), left - 4, top + middle);
      context.save();
      context.translate(left + middle, top - 4);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(label(i), 0, 0);
      context.restore();
    }
  }

  /** Frames a row and, where `column` is given, a column, with their tokens as labels. */
  function mark(row, column = null) {
    marked = row;
    const svg = d3.select(marks);
    svg.selectAll("*").remove();
    const T = tokens.length;
    if (row === null || row >= T) return;
    const frame = (x, y, width, height) => svg.append("rect").attr("x", x).attr("y", y).attr("width", width).attr("height", height);
    const text = (i, x, y, turn) => {
      const group = svg.append("g").attr("transform", `translate(${x} ${y}) rotate(${turn})`);
      const width = left - 2;
      group.append("rect").attr("class", "under").attr("x", turn ? 0 : -width).attr("y", -FONT).attr("width", width).attr("height", FONT + 4);
      group.append("text").attr("text-anchor", turn ? "start" : "end").text(label(i));
    };
    frame(left - 0.5, top + row * cell - 0.5, T * cell + 1, cell + 1);
    text(row, left - 4, top + (row + 0.5) * cell + FONT / 3, 0);
    if (column === null) return;
    frame(left + column * cell - 0.5, top - 0.5, cell + 1, T * cell + 1);
    text(column, left + (column + 0.5) * cell + FONT / 3, top - 4, -90);
  }

  /** One weight in words. */
  function sentence([i, k]) {
    const [reader, source] = [i, k].map((t) => `${tokenLabel(tokens[t].text)} (${t})`);
    if (causal && k > i) return `${reader} cannot read ${source}, which is later`;
    return `${reader} reads ${source} with weight ${number(weights[i * tokens.length + k], 4)}`;
  }

  function at(event) {
    const { left: x, top: y } = surface.getBoundingClientRect();
    const k = Math.floor((event.clientX - x - left) / cell), i = Math.floor((event.clientY - y - top) / cell);
    return i >= 0 && i < tokens.length && k < tokens.length ? [i, Math.max(k, 0), k >= 0] : null;
  }

  surface.addEventListener("pointermove", (event) => {
    const found = at(event);
    if (!found) return gone();
    point(found[0]);
    mark(found[0], found[2] ? found[1] : null);
    if (!found[2]) return hideTip();
    const { clientX, clientY } = event;
    showTip({ left: clientX + 12, top: clientY - 4, bottom: clientY + 8 }, sentence(found));
  });
  const gone = () => { hideTip(); leave(); };
  surface.addEventListener("pointerleave", gone);
  surface.addEventListener("click", (event) => { const found = at(event); if (found) pick(found[0]); });
  surface.addEventListener("focus", () => goTo(cursor));
  surface.addEventListener("blur", () => { value.textContent = ""; leave(); });
  surface.addEventListener("keydown", (event) => {
    const [i, k] = cursor, end = tokens.length - 1;
    const to = { ArrowUp: [i - 1, k], ArrowDown: [i + 1, k], ArrowLeft: [i, k - 1], ArrowRight: [i, k + 1],
      Home: [i, 0], End: [i, causal ? i : end], PageUp: [0, k], PageDown: [end, k] }[event.key];
    if (event.key === "Enter") pick(i);
    else if (to) {
      event.preventDefault();
      goTo(to.map((t) => Math.max(0, Math.min(end, t))));
    }
  });

  function goTo(place) {
    cursor = place;
    point(place[0]);
    mark(...place);
    value.textContent = sentence(place);
    const middle = (t) => left + (t + 0.5) * cell;
    box.scrollTo({ left: middle(place[1]) - box.clientWidth / 2, top: middle(place[0]) - box.clientHeight / 2 });
  }

  size.addEventListener("input", () => { automatic.checked = false; draw(); });
  automatic.addEventListener("change", draw);
  const watcher = new ResizeObserver(() => { if (automatic.checked) draw(); });
  watcher.observe(root);
  return { root, set, mark: (row) => mark(row), draw, stop: () => watcher.disconnect() };
}
