// Pictures of the Learn view: tokens coloured by their loss, maps with logarithmic colours, charts.

import { cssColor, h, hideTip, number, sequential, showTip, tokenLabel, tokenText } from "../ui.js";

export const MARGIN = 104; // pixels for the labels of rows

/** A scale from numbers to shares 0.08 to 1 by their logarithm, at least a factor of 10 wide. Zero has no share. */
export function logScale(values) {
  const logs = values.filter((x) => x > 0 && Number.isFinite(x)).map(Math.log10);
  const high = logs.length ? Math.max(...logs) : 0;
  const low = Math.min(logs.length ? Math.min(...logs) : 0, high - 1);
  const share = (x) => (x > 0 && Number.isFinite(x) ? 0.08 + (0.92 * (Math.log10(x) - low)) / (high - low) : null);
  return { low: 10 ** low, high: 10 ** high, share };
}

/** Black or white, whichever has more contrast with a colour (WCAG's relative luminance). */
export function readable(color) {
  const linear = (c) => (c <= 10.3 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const { r, g, b } = d3.rgb(color);
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.179 ? "#000000" : "#ffffff";
}

/** Pixels that the longest of some labels needs, in a font of letters 6.4 pixels wide. */
const room = (labels) => 8 + 6.4 * Math.max(...labels.map((label) => label.length));

/** A ramp of colours between two labels. */
export function legend(text, low, high, color, from = 0) {
  const ramp = h("span", { class: "ramp" });
  const stops = d3.range(0, 1.01, 0.125).map((x) => color(from + (1 - from) * x));
  ramp.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  return h("p", { class: "legend note" }, `${text}: `, h("span", {}, low), ramp, h("span", {}, high));
}

/** Makes the children of an element one stop of the Tab key: arrow keys, Home and End move between them. */
export function rove(element) {
  const items = [...element.children].filter((child) => child.tagName === "BUTTON");
  items.forEach((item, i) => (item.tabIndex = i ? -1 : 0));
  element.addEventListener("keydown", (event) => {
    const at = items.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (at < 0 || to === undefined || !items[to]) return;
    event.preventDefault();
    items[at].tabIndex = -1;
    items[to].tabIndex = 0;
    items[to].focus();
  });
}

/** The tokens of a text, each on the colour of its loss. `note(t)` describes the token at t; `onPick(t)`. */
export function lossStrip(tokens, losses, largest, { label, note, onPick, picked }) {
  const color = sequential("warm");
  const strip = h("div", { class: "loss-strip", role: "group", "aria-label": label });
  tokens.forEach((text, t) => {
    const loss = t ? losses[t - 1] : null;
    const fill = !Number.isFinite(loss) ? cssColor("background") : color(0.9 * Math.min(loss / largest, 1));
    const button = h("button", {
      type: "button", class: "token", "data-t": String(t), "aria-pressed": String(t === picked),
      "aria-label": `${text.trim() || tokenLabel(text)}: ${note(t)}`, onclick: () => onPick(t),
    }, tokenText(text));
    button.style.background = fill;
    button.style.color = readable(fill);
    const tip = () => showTip(button.getBoundingClientRect(), note(t));
    button.addEventListener("pointerenter", tip);
    button.addEventListener("focus", tip);
    button.addEventListener("pointerleave", hideTip);
    button.addEventListener("blur", hideTip);
    strip.append(button, "​");
  });
  rove(strip);
  return strip;
}

function svgFor(width, height, label) {
  return d3.create("svg").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`)
    .attr("role", "img").attr("aria-label", label);
}

/** A box that scrolls sideways, also with the arrow keys. */
export function scrolled(label, ...children) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, children);
}

/** A map of rows by columns with a cursor, which the pointer and the arrow keys move; Enter or a click picks a column. */
export function gridMap(values, { rows, columns, scale, label, note, onPick, picked, cell = null }) {
  const width = columns.length;
  cell ??= Math.max(5, Math.min(28, Math.floor(900 / width)));
  const names = columns.map((text) => tokenLabel(text).slice(0, 9));
  const tall = rows.length > 14 ? 11 : 18, top = cell >= 9 ? room(names) : 4;
  const color = sequential();
  const svg = svgFor(MARGIN + width * cell + 4, top + rows.length * tall + 4, `${label} The arrow keys move the cursor.`)
    .attr("class", "grid-map").attr("tabindex", 0);
  svg.append("g").selectAll("text").data(rows).join("text").attr("class", "axis").attr("x", MARGIN - 6)
    .attr("y", (_, i) => top + (i + 0.72) * tall).attr("text-anchor", "end")
    .text((name, i) => (rows.length > 14 && i % 2 ? "" : name));
  if (cell >= 9) {
    svg.append("g").selectAll("text").data(names).join("text").attr("class", "axis mono")
      .attr("transform", (_, j) => `translate(${MARGIN + (j + 0.75) * cell} ${top - 4}) rotate(-90)`).text(String);
  }
  const none = cssColor("line");
  svg.append("g").selectAll("rect").data(values.flatMap((row, i) => row.map((x, j) => ({ x, i, j })))).join("rect")
    .attr("x", (d) => MARGIN + d.j * cell).attr("y", (d) => top + d.i * tall).attr("width", cell).attr("height", tall)
    .attr("fill", (d) => (scale.share(d.x) === null ? none : color(scale.share(d.x))));
  const box = (name) => svg.append("rect").attr("class", name).attr("width", cell).attr("visibility", "hidden");
  if (picked !== null && picked >= 0 && picked < width) {
    box("picked").attr("x", MARGIN + picked * cell).attr("y", top).attr("height", rows.length * tall).attr("visibility", null);
  }
  const cursor = box("cursor").attr("height", tall);
  const said = h("output", { class: "hidden-text" });
  let at = { i: rows.length - 1, j: Math.max(0, picked ?? 0) };
  const show = (i, j, speak) => {
    at = { i: Math.max(0, Math.min(rows.length - 1, i)), j: Math.max(0, Math.min(width - 1, j)) };
    cursor.attr("x", MARGIN + at.j * cell).attr("y", top + at.i * tall).attr("visibility", null);
    showTip(cursor.node().getBoundingClientRect(), note(at.i, at.j));
    if (speak) said.textContent = note(at.i, at.j);
  };
  const hide = () => {
    hideTip();
    cursor.attr("visibility", "hidden");
  };
  const place = (event) => {
    const [x, y] = d3.pointer(event, svg.node());
    return { i: Math.floor((y - top) / tall), j: Math.floor((x - MARGIN) / cell) };
  };
  svg.on("pointermove", (event) => {
    const { i, j } = place(event);
    if (i >= 0 && i < rows.length && j >= 0 && j < width) show(i, j, false);
    else hide();
  }).on("pointerleave", hide).on("blur", hide).on("focus", () => show(at.i, at.j, true))
    .on("click", (event) => place(event).j >= 0 && place(event).j < width && onPick?.(place(event).j))
    .on("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (by) {
        event.preventDefault();
        show(at.i + by[0], at.j + by[1], true);
      } else if (event.key === "Enter") onPick?.(at.j);
    });
  return h("div", {}, h("div", { class: "scroll" }, svg.node()), said);
}

/** A table of the parts of all blocks, each number on its colour; `value(group)` is null where there is none. */
export function partsTable(groups, { caption, value, color }) {
  const cellOf = (group) => {
    const x = value(group);
    const cell = h("td", { class: "number" }, x === null ? "–" : short(x));
    const fill = x === null ? null : color(x);
    if (fill) {
      cell.style.background = fill;
      cell.style.color = readable(fill);
    }
    return cell;
  };
  const layers = [...new Set(groups.map((group) => group.layer).filter((layer) => layer !== null))];
  const of = (layer) => groups.filter((group) => group.layer === layer);
  const head = (names) => h("tr", {}, h("td", {}), names.map((name) => h("th", { scope: "col", class: "number" }, name)));
  const table = h("table", { class: "parts" }, h("caption", { class: "note" }, caption),
    h("thead", {}, head(of(layers[0]).map((group) => group.part))),
    h("tbody", {}, layers.map((layer) => h("tr", {}, h("th", { scope: "row" }, `block ${layer}`), of(layer).map(cellOf)))));
  const others = h("table", { class: "parts" },
    h("thead", {}, head(of(null).map((group) => group.part))),
    h("tbody", {}, h("tr", {}, h("th", { scope: "row" }, "outside"), of(null).map(cellOf))));
  return h("div", {}, scrolled(caption, table, others));
}

/** Two significant digits: 0.12, 3.4e-5. */
export function short(x) {
  if (!Number.isFinite(x)) return "–";
  return x !== 0 && (x < 0.01 || x >= 1000) ? x.toExponential(1).replace("e+", "e") : String(Number(x.toPrecision(2)));
}

/** Probabilities before and after as arrows, one for each predicted token; `order` has the positions. */
export function arrows(step, { order, log, picked, onPick }) {
  const cell = Math.max(7, Math.min(28, Math.floor(1000 / order.length))), height = 190, top = 8, left = 56;
  const names = step.tokens.map((text) => tokenLabel(text).slice(0, 9)), bottom = room(names) + 6;
  const floor = Math.max(1e-8, Math.min(...[...step.before, ...step.after].filter(Number.isFinite)) / 1.5);
  const y = (log ? d3.scaleLog().domain([floor, 1]) : d3.scaleLinear().domain([0, 1])).range([top + height, top]).clamp(true);
  const svg = svgFor(left + order.length * cell + 8, top + height + bottom,
    "Probability of each true next token before the step and after it. Numbers are in the table below.");
  const ticks = log ? y.ticks(5).filter((p) => Number.isInteger(Math.round(Math.log10(p) * 1e6) / 1e6)) : y.ticks(5);
  const grid = svg.append("g").selectAll("g").data(ticks).join("g").attr("transform", (p) => `translate(0 ${y(p)})`);
  grid.append("line").attr("class", "grid").attr("x1", left).attr("x2", left + order.length * cell);
  grid.append("text").attr("class", "axis").attr("x", left - 6).attr("dy", "0.32em").attr("text-anchor", "end")
    .text((p) => (log && p < 0.01 ? p.toExponential(0) : `${Math.round(p * 100)} %`));
  const x = (k) => left + (k + 0.5) * cell;
  const size = Math.min(4.5, cell / 2.4);
  order.forEach((t, k) => {
    const [a, b] = [step.before[t], step.after[t]].map((p) => (Number.isFinite(p) ? y(p) : NaN)), up = step.after[t] >= step.before[t];
    const g = svg.append("g").attr("class", up ? "up" : "down");
    g.append("rect").attr("class", t === picked ? "picked-band" : "band").attr("x", left + k * cell).attr("y", top)
      .attr("width", cell).attr("height", height + bottom - 4);
    if (Number.isFinite(step.before[t])) g.append("circle").attr("cx", x(k)).attr("cy", a).attr("r", size * 0.55);
    if (Number.isFinite(a + b)) g.append("line").attr("x1", x(k)).attr("x2", x(k)).attr("y1", a).attr("y2", b);
    const tip = up ? size : -size;
    if (Number.isFinite(step.after[t])) g.append("path").attr("d", `M${x(k) - size} ${b + tip}L${x(k) + size} ${b + tip}L${x(k)} ${b}Z`);
    g.append("text").attr("class", "axis mono").attr("transform", `translate(${x(k) + 4} ${top + height + 6}) rotate(-90)`)
      .attr("text-anchor", "end").text(names[t + 1]);
    g.on("pointerenter", (event) => showTip(event.currentTarget.getBoundingClientRect(), changeOf(step, t)))
      .on("pointerleave", hideTip).on("click", () => onPick(t));
  });
  return h("div", { class: "arrows" }, scrolled("Probabilities before and after", svg.node()));
}

/** "“q” after “… t”: 1.2 % → 3.4 %, loss 4.4 → 3.4 nats" */
export function changeOf(step, t) {
  return `${tokenLabel(step.tokens[t + 1])} at position ${t + 1}: probability ${chance(step.before[t])} → ` +
    `${chance(step.after[t])}, loss ${number(step.losses_before[t])} → ${number(step.losses_after[t])} nats`;
}

export function chance(p) {
  if (!Number.isFinite(p)) return "not finite";
  return p >= 0.001 ? `${(100 * p).toPrecision(3)} %` : p.toExponential(1);
}
