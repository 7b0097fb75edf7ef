// Charts of the Learn view: the update against the weights, the loss over the steps, the gradient by layer.

import { hideTip, number, showTip } from "../ui.js";
import { short } from "./pictures.js";

const tick = (x) => `1e${Math.round(Math.log10(x))}`;
const powers = ([low, high]) => d3.range(Math.ceil(Math.log10(low) - 1e-9), Math.log10(high) + 1e-9).map((k) => 10 ** k);

function create(width, height, label) {
  return d3.create("svg").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`)
    .attr("role", "img").attr("aria-label", label);
}

/** Whole powers of ten around all positive numbers, at least two decades. */
function decades(values) {
  const logs = values.filter((x) => x > 0 && Number.isFinite(x)).map(Math.log10);
  const low = Math.floor(logs.length ? Math.min(...logs) : -2);
  return [10 ** low, 10 ** Math.max(Math.ceil(logs.length ? Math.max(...logs) : 0), low + 2)];
}

/** norm(update) / norm(weight) as dots on a logarithmic axis: a row for each part, a dot for each block. */
export function ratioChart(updates) {
  const partsOf = [...new Set(updates.map((update) => update.part))];
  const domain = decades([...updates.map((update) => update.ratio), 1e-3]);
  const left = 200, right = 14, top = 34, tall = 22, width = 550;
  const x = d3.scaleLog().domain(domain).range([left, width - right]);
  const svg = create(width, top + partsOf.length * tall + 26,
    "Ratio of update to weight for each part of each block. All numbers are in the table below.");
  const bottom = top + partsOf.length * tall;
  const grid = svg.append("g").selectAll("g").data(powers(domain)).join("g").attr("transform", (d) => `translate(${x(d)} 0)`);
  grid.append("line").attr("class", "grid").attr("y1", top).attr("y2", bottom);
  grid.append("text").attr("class", "axis").attr("y", bottom + 16).attr("text-anchor", "middle").text(tick);
  const rule = svg.append("g").attr("class", "rule").attr("transform", `translate(${x(1e-3)} 0)`);
  rule.append("line").attr("y1", top - 10).attr("y2", bottom);
  rule.append("text").attr("class", "axis").attr("y", top - 16).attr("text-anchor", "middle").text("about 1e-3: rule of thumb");
  partsOf.forEach((part, i) => {
    const row = svg.append("g").attr("transform", `translate(0 ${top + (i + 0.5) * tall})`);
    row.append("line").attr("class", "grid").attr("x1", left).attr("x2", width - right);
    row.append("text").attr("class", "axis").attr("x", left - 8).attr("dy", "0.32em").attr("text-anchor", "end").text(part);
    const shown = updates.filter((update) => update.part === part && update.ratio > 0);
    row.selectAll("circle").data(shown).join("circle").attr("class", "dot").attr("cx", (d) => x(d.ratio)).attr("r", 5)
      .on("pointerenter", (event, d) => showTip(event.currentTarget.getBoundingClientRect(),
        `${d.layer === null ? "" : `block ${d.layer} `}${part}: ${short(d.update)} / ${short(d.weight)} = ${short(d.ratio)}`))
      .on("pointerleave", hideTip);
  });
  return svg.node();
}

/** The mean loss before the first step of a session and after each step. Steps on another text begin another line. */
export function lossChart(losses) {
  const lines = [];
  losses.forEach(({ before, after, text }, i) => {
    if (!i || losses[i - 1].text !== text) lines.push([{ step: i, loss: before }]);
    lines.at(-1).push({ step: i + 1, loss: after });
  });
  const points = lines.flat().filter(({ loss }) => loss !== null);
  const width = 440, height = 150, left = 46, bottom = 30;
  const x = d3.scaleLinear().domain([0, Math.max(losses.length, 1)]).range([left, width - 10]);
  const y = d3.scaleLinear().domain([Math.min(0, d3.min(points, (d) => d.loss)), d3.max(points, (d) => d.loss)]).nice()
    .range([height - bottom, 8]);
  const svg = create(width, height, `Mean loss over ${losses.length} steps of this session, in nats: ` +
    `${number(losses[0].before)} before, ${number(losses.at(-1).after)} now.`);
  const grid = svg.append("g").selectAll("g").data(y.ticks(4)).join("g").attr("transform", (d) => `translate(0 ${y(d)})`);
  grid.append("line").attr("class", "grid").attr("x1", left).attr("x2", width - 10);
  grid.append("text").attr("class", "axis").attr("x", left - 6).attr("dy", "0.32em").attr("text-anchor", "end").text((d) => d);
  svg.append("g").selectAll("text").data(x.ticks(Math.min(losses.length, 8)).filter(Number.isInteger)).join("text")
    .attr("class", "axis").attr("x", x).attr("y", height - bottom + 15).attr("text-anchor", "middle").text(String);
  svg.append("text").attr("class", "axis").attr("x", width - 10).attr("y", height - 2).attr("text-anchor", "end")
    .text("steps of this session");
  const path = d3.line().defined((d) => d.loss !== null).x((d) => x(d.step)).y((d) => y(d.loss));
  svg.append("g").selectAll("path").data(lines).join("path").attr("class", "loss-line").attr("d", path);
  svg.append("g").selectAll("circle").data(points).join("circle").attr("class", "dot").attr("r", 3.5)
    .attr("cx", (d) => x(d.step)).attr("cy", (d) => y(d.loss))
    .on("pointerenter", (event, d) => showTip(event.currentTarget.getBoundingClientRect(),
      `after ${d.step} ${d.step === 1 ? "step" : "steps"}: ${number(d.loss, 4)} nats`))
    .on("pointerleave", hideTip);
  return svg.node();
}

/** The norm of the gradient after each block on a logarithmic axis; `series`: [{ name, dashed, values }]. */
export function layerChart(layers, series) {
  const width = 640, height = 234, left = 60, right = 12, top = 12, bottom = 58;
  const domain = decades(series.flatMap(({ values }) => values));
  const x = d3.scalePoint().domain(d3.range(layers.length)).range([left, width - right]).padding(0.4);
  const y = d3.scaleLog().domain(domain).range([height - bottom, top]).clamp(true);
  const svg = create(width, height, "Norm of the gradient after each block, on a logarithmic axis. " + series.map(({ name, values }) =>
    `${name}: ${short(values[0])} at the embedding, ${short(values.at(-1))} after the last block.`).join(" "));
  const every = Math.ceil(powers(domain).length / 7);
  const grid = svg.append("g").selectAll("g").data(powers(domain).filter((_, i) => i % every === 0)).join("g")
    .attr("transform", (d) => `translate(0 ${y(d)})`);
  grid.append("line").attr("class", "grid").attr("x1", left).attr("x2", width - right);
  grid.append("text").attr("class", "axis").attr("x", left - 6).attr("dy", "0.32em").attr("text-anchor", "end").text(tick);
  svg.append("g").selectAll("text").data(layers).join("text").attr("class", "axis")
    .attr("transform", (_, i) => `translate(${x(i) + 4} ${height - bottom + 8}) rotate(-35)`).attr("text-anchor", "end")
    .text((name, i) => (i % Math.ceil(layers.length / 14) ? "" : name.replace("after ", "")));
  series.forEach(({ name, dashed, values }) => {
    const points = values.map((value, i) => ({ value, i })).filter(({ value }) => value > 0);
    const group = svg.append("g").attr("class", dashed ? "series without" : "series with");
    group.append("path").attr("d", d3.line().x((d) => x(d.i)).y((d) => y(d.value))(points));
    group.selectAll(".mark").data(points).join((enter) => enter.append(dashed ? "rect" : "circle")).attr("class", "mark")
      .attr("cx", (d) => x(d.i)).attr("cy", (d) => y(d.value)).attr("r", 4)
      .attr("x", (d) => x(d.i) - 4).attr("y", (d) => y(d.value) - 4).attr("width", 8).attr("height", 8)
      .on("pointerenter", (event, d) => showTip(event.currentTarget.getBoundingClientRect(),
        `${name}, ${layers[d.i]}: ${short(d.value)}`))
      .on("pointerleave", hideTip);
  });
  return svg.node();
}
