// A gradient as a small picture with its norm and range.

import { cssColor, diverging, floats, h, heatMap, hideTip, number, showTip } from "./ui.js";

const SIZE = 190; // pixels, at most

/** A figure for a picture that the server sent (gpt.look.Picture); a single number is written out. */
export function gradientFigure(picture, label) {
  const range = `from ${number(picture.low)} to ${number(picture.high)}`;
  if (picture.rows * picture.columns === 1) {
    return h("figure", { class: "gradient" }, h("figcaption", {}, label, " ", h("b", { class: "mono" }, number(picture.low))));
  }
  const values = floats(picture.cells);
  const largest = values.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
  const rows = Array.from({ length: picture.rows }, (_, i) =>
    Array.from(values.subarray(i * picture.columns, (i + 1) * picture.columns), (x) =>
      (Number.isFinite(x) ? x / (largest || 1) : null)));
  const shape = `(${picture.shape.join(", ")})`;
  const canvas = h("canvas", { role: "img", "aria-label": `${label}: shape ${shape}, norm ${number(picture.norm)}, ${range}` });
  heatMap(canvas, rows, { color: diverging(), cell: 1 });
  const cell = Math.max(2, Math.min(14, Math.floor(SIZE / Math.max(picture.columns, picture.rows))));
  canvas.style.width = `${Math.max(12, cell * picture.columns)}px`;
  canvas.style.height = `${Math.max(12, cell * picture.rows)}px`;
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const j = Math.min(picture.columns - 1, Math.floor(((event.clientX - box.left) / box.width) * picture.columns));
    const i = Math.min(picture.rows - 1, Math.floor(((event.clientY - box.top) / box.height) * picture.rows));
    const x = values[i * picture.columns + j];
    const at = { left: event.clientX + 8, top: event.clientY, bottom: event.clientY + 8 };
    showTip(at, Number.isFinite(x) ? `row ${i}, column ${j}: ${number(x)}` : null);
  });
  canvas.addEventListener("pointerleave", hideTip);
  return h("figure", { class: "gradient" },
    h("figcaption", {}, label, " ", h("b", { class: "mono" }, `|g| ${number(picture.norm)}`), h("br"), range),
    canvas,
    h("figcaption", { class: "note" }, picture.caption, h("br"), `strongest colour: ±${number(largest)}`));
}

/** The legend of all pictures: the colours from negative to positive. */
export function gradientLegend() {
  const canvas = h("canvas", { "aria-hidden": "true", class: "legend" });
  heatMap(canvas, [Array.from({ length: 41 }, (_, i) => (i - 20) / 20)], { color: diverging(), cell: 1 });
  canvas.style.borderColor = cssColor("line");
  return h("span", { class: "note gradient-legend" }, "negative", canvas, "positive; the background is 0");
}
