// Small charts of the views below "Look inside", as SVG.

import { cssColor, h, number, percent, tokenLabel } from "./ui.js";

function svg(width, height, label) {
  return d3.create("svg").attr("viewBox", `0 0 ${width} ${height}`).attr("width", width).attr("height", height)
    .attr("role", "img").attr("aria-label", label).attr("class", "chart");
}

/** Appends an element of SVG with attributes and perhaps a text. */
function add(parent, name, attributes, text = null) {
  const element = parent.append(name);
  for (const [key, value] of Object.entries(attributes)) element.attr(key, value);
  if (text !== null) element.text(text);
  return element;
}

function rule(picture, x1, y1, x2, y2) {
  add(picture, "line", { x1, y1, x2, y2, stroke: cssColor("line") });
}

function label(picture, x, y, text, anchor = "middle") {
  add(picture, "text", { x, y, "text-anchor": anchor, class: "tick" }, text);
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
 * Lines over the layers `names`: `lines` are { id, text, probabilities, ranks }, and that of the token `chosen` is
 * emphasized. `scale` is "probability" (from 0) or "rank" (1 above, logarithmic).
 */
export function layerChart({ names, lines, chosen, scale, width }) {
  const height = 270, left = 56, right = width - Math.min(110, width * 0.28), top = 14, bottom = height - 58;
  const byRank = scale === "rank";
  const values = (line) => (byRank ? line.ranks : line.probabilities);
  const most = d3.max(lines.flatMap(values).filter(Number.isFinite)) || 1;
  const x = d3.scalePoint(names, [left, right]);
  const linear = d3.scaleLinear([0, most], [bottom, top]).nice(4);
  const y = byRank ? d3.scaleLog([1, Math.max(most, 2)], [top, bottom]) : linear;
  const picture = svg(width, height, `${scale} of ${lines.length} tokens after each block: see the table`);
  for (const tick of byRank ? [1, 10, 100, 1000, 10000].filter((rank) => rank <= most) : y.ticks(4)) {
    rule(picture, left, y(tick), right, y(tick));
    label(picture, left - 6, y(tick) + 4, byRank ? tick.toLocaleString("en") : `${number(100 * tick)} %`, "end");
  }
  for (const name of names) {
    const turned = `translate(${x(name)} ${bottom + 14}) rotate(-35)`;
    add(picture, "text", { transform: turned, "text-anchor": "end", class: "tick" }, name.replace("block ", ""));
  }
  label(picture, (left + right) / 2, height - 2, "after block");
  const ordered = [...lines].sort((a, b) => (a.id === chosen) - (b.id === chosen)); // the chosen one is drawn last
  const ends = spread(ordered.map((line) => y(values(line).at(-1)) + 4), 14, top + 4, bottom + 4);
  ordered.forEach((line, i) => {
    const main = line.id === chosen;
    drawLine(picture, line, { names, values: values(line), main, x, y, byRank });
    const kind = main ? "name main" : "name";
    add(picture, "text", { x: right + 8, y: ends[i], class: kind }, tokenLabel(line.text).slice(0, 14));
  });
  return picture.node();
}

function drawLine(picture, { text }, { names, values, main, x, y, byRank }) {
  const color = cssColor(main ? "accent" : "faint");
  const path = d3.line().defined(Number.isFinite).x((_, j) => x(names[j])).y(y);
  const stroke = { stroke: color, "stroke-width": main ? 3 : 1, opacity: main ? 1 : 0.7 };
  add(picture, "path", { fill: "none", d: path(values), ...stroke });
  values.forEach((value, j) => {
    if (!Number.isFinite(value)) return;
    const point = add(picture, "circle", { cx: x(names[j]), cy: y(value), r: main ? 4 : 2, fill: color });
    const shown = byRank ? `rank ${value.toLocaleString("en")}` : percent(value);
    add(point, "title", {}, `${tokenLabel(text)}, ${names[j]}: ${shown}`);
  });
}

/** The numbers of layerChart as a table, closed at first. */
export function layerTable({ names, lines }) {
  const header = h("tr", {}, h("th", {}, "token"), names.map((name) => h("th", { class: "number" }, name)));
  const cell = (line, j) => `${percent(line.probabilities[j])} · ${line.ranks[j].toLocaleString("en")}`;
  const rows = lines.map((line) => h("tr", {},
    h("th", { class: "mono" }, tokenLabel(line.text)),
    names.map((_, j) => h("td", { class: "number" }, cell(line, j)))));
  const table = h("div", { class: "scroll", tabindex: "0" }, h("table", {}, header, rows));
  return h("details", {}, h("summary", {}, "Numbers: probability · rank"), table);
}

/** A line of one value for each position: `points` are [position, value] from -1 to 1; `at` is marked. */
export function similarityChart(points, at, width) {
  const height = 180, left = 40, right = width - 10, top = 10, bottom = height - 34;
  const picture = svg(width, height, `cosine similarity of position ${at} to every position`);
  const x = d3.scaleLinear([0, points.at(-1)[0] || 1], [left, right]);
  const y = d3.scaleLinear([-1, 1], [bottom, top]);
  for (const tick of [-1, 0, 1]) {
    rule(picture, left, y(tick), right, y(tick));
    label(picture, left - 6, y(tick) + 4, tick, "end");
  }
  for (const tick of x.ticks(5)) label(picture, x(tick), bottom + 16, tick);
  label(picture, (left + right) / 2, height - 3, "position");
  const mark = { stroke: cssColor("warm"), "stroke-dasharray": "3 3" };
  add(picture, "line", { x1: x(at), x2: x(at), y1: top, y2: bottom, ...mark });
  const path = d3.line().x((point) => x(point[0])).y((point) => y(point[1]));
  add(picture, "path", { fill: "none", stroke: cssColor("accent"), "stroke-width": 1.5, d: path(points) });
  return picture.node();
}

/**
 * Points { x, y, text, color } on two axes of one scale. `path` joins them, `labels` writes their texts where there is
 * room, and the point number `at` is marked.
 */
export function scatter(points, { name, axes, path = false, labels = false, at = null, width }) {
  const height = Math.min(width, 380), side = height / 2 - 26;
  const picture = svg(width, height, name);
  const reach = d3.max(points, (point) => Math.max(Math.abs(point.x), Math.abs(point.y))) || 1;
  const x = (point) => width / 2 + (point.x / reach) * side;
  const y = (point) => height / 2 - (point.y / reach) * side;
  rule(picture, 0, height / 2, width, height / 2);
  rule(picture, width / 2, 0, width / 2, height);
  label(picture, width - 4, height / 2 + 15, axes[0], "end");
  label(picture, width / 2 + 6, 12, axes[1], "start");
  const joined = { fill: "none", stroke: cssColor("line"), opacity: 0.6, d: d3.line().x(x).y(y)(points) };
  if (path) add(picture, "path", joined);
  for (const point of points) {
    const circle = add(picture, "circle", { cx: x(point), cy: y(point), r: labels ? 4 : 3, fill: point.color });
    add(circle, "title", {}, point.text);
  }
  if (labels) drawLabels(picture, points, x, y, width);
  if (at !== null && points[at]) {
    const [cx, cy] = [x(points[at]), y(points[at])];
    add(picture, "circle", { cx, cy, r: 8, fill: "none", stroke: cssColor("warm"), "stroke-width": 2.5 });
    add(picture, "text", { x: cx + 11, y: cy + 4, class: "name main" }, points[at].text);
  }
  return picture.node();
}

/** Writes each point's text to its right, left, above or below; those without room are left out. */
function drawLabels(picture, points, x, y, width) {
  const taken = points.map((point) => ({ x: x(point) - 4, y: y(point) - 4, w: 8, h: 8 }));
  const hits = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
  for (const point of points) {
    const text = tokenLabel(point.text), w = 8 * text.length, [px, py] = [x(point), y(point)];
    const places = [[px + 7, py - 7], [px - 7 - w, py - 7], [px - w / 2, py - 20], [px - w / 2, py + 6]];
    const box = places.map(([left, top]) => ({ x: left, y: top, w, h: 14 }))
      .find((place) => place.x > 0 && place.x + w < width && !taken.some((other) => hits(place, other)));
    if (!box) continue;
    taken.push(box);
    add(picture, "text", { x: box.x, y: box.y + 11, class: "name" }, text);
  }
}
