// Small charts of the views below "Look inside", as SVG.

import { cssColor, h, number, percent, tokenLabel } from "./ui.js";

function svg(width, height, label) {
  return d3.create("svg").attr("viewBox", `0 0 ${width} ${height}`).attr("width", width).attr("height", height)
    .attr("role", "img").attr("aria-label", label).attr("class", "chart");
}

/** Moves labels, given by their y, apart by at least `gap`. */
function spread(ys, gap, top, bottom) {
  const order = d3.range(ys.length).sort((a, b) => ys[a] - ys[b]);
  const placed = [...ys];
  let least = top;
  for (const i of order) least = (placed[i] = Math.max(placed[i], least)) + gap;
  let most = bottom;
  for (const i of order.reverse()) most = (placed[i] = Math.min(placed[i], most)) - gap;
  return placed;
}

/**
 * Lines over the layers `names`: `lines` are { id, text, probabilities, ranks }, and the one of `chosen` is emphasized. `scale` is
 * "probability" (from 0) or "rank" (1 above, logarithmic).
 */
export function layerChart({ names, lines, chosen, scale, width }) {
  const [left, right, top, bottom] = [56, Math.min(110, width * 0.28), 14, 58], height = 270;
  const values = (line) => (scale === "rank" ? line.ranks : line.probabilities);
  const shown = (value) => (scale === "rank" ? `rank ${number(value)}` : percent(value));
  const picture = svg(width, height, `${scale} of ${lines.length} tokens after each layer; the numbers are in the table below`);
  const x = d3.scalePoint(names, [left, width - right]);
  const most = d3.max(lines.flatMap(values).filter(Number.isFinite)) || 1;
  const y = scale === "rank" ? d3.scaleLog([1, Math.max(most, 2)], [top, height - bottom]) : d3.scaleLinear([0, most], [height - bottom, top]).nice(4);
  const ticks = scale === "rank" ? [1, 10, 100, 1000, 10000].filter((tick) => tick <= most) : y.ticks(4);
  for (const tick of ticks) {
    picture.append("line").attr("x1", left).attr("x2", width - right).attr("y1", y(tick)).attr("y2", y(tick)).attr("stroke", cssColor("line"));
    picture.append("text").attr("x", left - 6).attr("y", y(tick) + 4).attr("text-anchor", "end").attr("class", "tick")
      .text(scale === "rank" ? tick.toLocaleString("en") : `${number(100 * tick)} %`);
  }
  for (const name of names) {
    picture.append("text").attr("transform", `translate(${x(name)} ${height - bottom + 14}) rotate(-35)`)
      .attr("text-anchor", "end").attr("class", "tick").text(name.replace("layer ", ""));
  }
  picture.append("text").attr("x", (left + width - right) / 2).attr("y", height - 2).attr("text-anchor", "middle").attr("class", "tick").text("after layer");
  const ordered = [...lines].sort((a, b) => (a.id === chosen) - (b.id === chosen)); // the chosen one is drawn last
  const ends = spread(ordered.map((line) => y(values(line).at(-1)) + 4), 14, top + 4, height - bottom + 4);
  ordered.forEach((line, i) => {
    const main = line.id === chosen, color = cssColor(main ? "accent" : "faint");
    picture.append("path").attr("fill", "none").attr("stroke", color).attr("stroke-width", main ? 3 : 1).attr("opacity", main ? 1 : 0.7)
      .attr("d", d3.line().defined(Number.isFinite).x((_, j) => x(names[j])).y(y)(values(line)));
    picture.append("g").selectAll("circle").data(values(line)).join("circle")
      .attr("cx", (_, j) => x(names[j])).attr("cy", y).attr("r", main ? 4 : 2).attr("fill", color)
      .append("title").text((value, j) => `${tokenLabel(line.text)}, ${names[j]}: ${shown(value)}`);
    picture.append("text").attr("x", width - right + 8).attr("y", ends[i]).attr("class", main ? "name main" : "name").text(tokenLabel(line.text).slice(0, 14));
  });
  return picture.node();
}

/** The numbers of layerChart as a table, closed at first. */
export function layerTable({ names, lines }) {
  const header = h("tr", {}, h("th", {}, "token"), names.map((name) => h("th", { class: "number" }, name)));
  const rows = lines.map((line) => h("tr", {}, h("th", { class: "mono" }, tokenLabel(line.text)), names.map((_, j) =>
    h("td", { class: "number" }, `${percent(line.probabilities[j])} · ${number(line.ranks[j])}`))));
  return h("details", {}, h("summary", {}, "Numbers: probability · rank"), h("div", { class: "scroll", tabindex: "0" }, h("table", {}, header, rows)));
}

/** A line of one value for each position: `points` are [position, value] from -1 to 1; `at` is marked. */
export function similarityChart(points, at, width) {
  const [left, right, top, bottom] = [40, 10, 10, 34], height = 180;
  const picture = svg(width, height, `cosine similarity of position ${at} to every position`);
  const x = d3.scaleLinear([0, points.at(-1)[0] || 1], [left, width - right]);
  const y = d3.scaleLinear([-1, 1], [height - bottom, top]);
  for (const tick of [-1, 0, 1]) {
    picture.append("line").attr("x1", left).attr("x2", width - right).attr("y1", y(tick)).attr("y2", y(tick)).attr("stroke", cssColor("line"));
    picture.append("text").attr("x", left - 6).attr("y", y(tick) + 4).attr("text-anchor", "end").attr("class", "tick").text(tick);
  }
  for (const tick of x.ticks(5)) picture.append("text").attr("x", x(tick)).attr("y", height - bottom + 16).attr("text-anchor", "middle").attr("class", "tick").text(tick);
  picture.append("text").attr("x", (left + width - right) / 2).attr("y", height - 3).attr("text-anchor", "middle").attr("class", "tick").text("position");
  picture.append("line").attr("x1", x(at)).attr("x2", x(at)).attr("y1", top).attr("y2", height - bottom).attr("stroke", cssColor("warm")).attr("stroke-dasharray", "3 3");
  picture.append("path").attr("fill", "none").attr("stroke", cssColor("accent")).attr("stroke-width", 1.5)
    .attr("d", d3.line().x((p) => x(p[0])).y((p) => y(p[1]))(points));
  return picture.node();
}

/**
 * Points { x, y, text, color } on two axes of one scale. `path` joins them, `labels` writes their texts where there is room,
 * and the point number `at` is marked.
 */
export function scatter(points, { label, axes, path = false, labels = false, at = null, width }) {
  const height = Math.min(width, 380), edge = 26;
  const picture = svg(width, height, label);
  const reach = d3.max(points, (p) => Math.max(Math.abs(p.x), Math.abs(p.y))) || 1;
  const side = Math.min(width, height) / 2 - edge;
  const x = (p) => width / 2 + (p.x / reach) * side;
  const y = (p) => height / 2 - (p.y / reach) * side;
  const axis = (x1, y1, x2, y2) => picture.append("line").attr("x1", x1).attr("y1", y1).attr("x2", x2).attr("y2", y2).attr("stroke", cssColor("line"));
  axis(0, height / 2, width, height / 2);
  axis(width / 2, 0, width / 2, height);
  picture.append("text").attr("x", width - 4).attr("y", height / 2 + 15).attr("text-anchor", "end").attr("class", "tick").text(axes[0]);
  picture.append("text").attr("x", width / 2 + 6).attr("y", 12).attr("class", "tick").text(axes[1]);
  if (path) picture.append("path").attr("fill", "none").attr("stroke", cssColor("line")).attr("opacity", 0.6).attr("d", d3.line().x(x).y(y)(points));
  picture.append("g").selectAll("circle").data(points).join("circle").attr("cx", x).attr("cy", y).attr("r", labels ? 4 : 3)
    .attr("fill", (p) => p.color).append("title").text((p) => p.text);
  if (labels) drawLabels(picture, points, x, y, width);
  if (at !== null && points[at]) {
    picture.append("circle").attr("cx", x(points[at])).attr("cy", y(points[at])).attr("r", 8).attr("fill", "none").attr("stroke", cssColor("warm")).attr("stroke-width", 2.5);
    picture.append("text").attr("x", x(points[at]) + 11).attr("y", y(points[at]) + 4).attr("class", "name main").text(points[at].text);
  }
  return picture.node();
}

/** Writes each point's text to its right, left, above or below; those without room are left out. */
function drawLabels(picture, points, x, y, width) {
  const taken = points.map((p) => ({ x: x(p) - 4, y: y(p) - 4, w: 8, h: 8 }));
  const hits = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
  for (const p of points) {
    const text = tokenLabel(p.text), w = 8 * text.length, [px, py] = [x(p), y(p)];
    const places = [[px + 7, py - 7], [px - 7 - w, py - 7], [px - w / 2, py - 20], [px - w / 2, py + 6]];
    const box = places.map(([bx, by]) => ({ x: bx, y: by, w, h: 14 }))
      .find((box) => box.x > 0 && box.x + w < width && !taken.some((other) => hits(box, other)));
    if (!box) continue;
    taken.push(box);
    picture.append("text").attr("x", box.x).attr("y", box.y + 11).attr("class", "name").text(text);
  }
}
