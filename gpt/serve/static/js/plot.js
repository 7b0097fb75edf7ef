// Plots of curves over steps: panels one above another with the same steps, and a crosshair that reads their values.

import { h, hideTip, number, showTip } from "./ui.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52, RIGHT = 14, TOP = 22, BETWEEN = 34, BOTTOM = 30;
const NEAR = 24; // pixels from a checkpoint's mark within which a click chooses it

function s(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

/**
 * A plot in `root`; returns { update(spec), stop }. A spec is
 *   { label, xName, panels: [{ title, height, log, lines: [line] }], marks: [step], chosen: step, onPick(step) }
 * and a line { name, css, thin, dots, x: [...], y: [...], low: [...], high: [...], end, format(value) }: `css` is a class with
 * --c, its colour; with low and high, their range is drawn as an area; after `end` it has no value to read.
 */
export function plot(root) {
  let spec = null, scale = null, cursor = null, width = 0;
  const svg = s("svg", { tabindex: "0", role: "slider", "aria-orientation": "horizontal", class: "plot" });
  root.append(svg);

  const draw = () => {
    if (!spec) return;
    width = Math.max(260, root.clientWidth);
    const values = spec.panels.flatMap(({ lines }) => lines.flatMap(({ x }) => [x[0] ?? 0, x.at(-1) ?? 0]));
    scale = d3.scaleLinear([0, Math.max(1, ...values)], [LEFT, width - RIGHT]);
    let top = TOP;
    const parts = [];
    for (const panel of spec.panels) {
      parts.push(drawPanel(panel, top, width, scale));
      top += panel.height + BETWEEN;
    }
    const height = top - BETWEEN + BOTTOM;
    parts.push(drawSteps(spec, scale, height, width), s("path", { class: "cursor" }));
    svg.replaceChildren(...parts);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    for (const [name, value] of [["label", spec.label], ["valuemin", 0], ["valuemax", scale.domain()[1]]]) {
      svg.setAttribute(`aria-${name}`, value);
    }
    move(cursor ?? scale.domain()[1], false);
  };

  /** The values of all lines at the step nearest to `x`. */
  const read = (x) => spec.panels.flatMap(({ lines }) => lines.filter((line) => line.x.length && x <= (line.end ?? Infinity)).map((line) => {
    const i = d3.bisectCenter(line.x, x);
    return { ...line, step: line.x[i], value: line.y[i] };
  }));

  const move = (x, shown = true) => {
    const found = read(x);
    if (!found.length) return;
    cursor = d3.least(found, (line) => Math.abs(line.step - x)).step;
    const path = svg.querySelector(".cursor");
    path.setAttribute("d", shown ? `M${scale(cursor)} ${TOP}V${svg.getAttribute("height") - BOTTOM}` : "");
    const texts = read(cursor).map((line) => [line, (line.format ?? number)(line.value)]);
    svg.setAttribute("aria-valuenow", cursor);
    svg.setAttribute("aria-valuetext", [`${spec.xName} ${cursor}`, ...texts.map(([l, t]) => `${l.name} ${t}`)].join(", "));
    if (!shown) return;
    const box = svg.getBoundingClientRect(), at = box.left + scale(cursor);
    const rows = texts.map(([line, text]) => h("tr", {},
      h("td", {}, h("span", { class: `line-swatch ${line.css}` }), line.name), h("td", { class: "number" }, text),
      h("td", { class: "number faint" }, line.step === cursor ? "" : `at ${line.step.toLocaleString("en")}`)));
    showTip({ left: at + 12, bottom: box.top + 20, top: box.top },
      h("table", {}, h("caption", {}, `${spec.xName} ${cursor.toLocaleString("en")}`), ...rows));
  };
  const leave = () => {
    hideTip();
    svg.querySelector(".cursor")?.setAttribute("d", "");
  };
  const nearest = (x) => d3.least(spec.marks ?? [], (mark) => Math.abs(mark - x));

  svg.addEventListener("pointermove", (event) => spec && move(scale.invert(d3.pointer(event, svg)[0])));
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("click", (event) => {
    const x = d3.pointer(event, svg)[0], mark = spec && nearest(scale.invert(x));
    if (mark !== undefined && Math.abs(scale(mark) - x) <= NEAR) spec.onPick?.(mark);
  });
  svg.addEventListener("keydown", (event) => {
    const last = scale?.domain()[1] ?? 0, stride = Math.max(1, Math.round(last / 100));
    const steps = { ArrowLeft: -stride, ArrowDown: -stride, ArrowRight: stride, ArrowUp: stride, PageDown: -10 * stride, PageUp: 10 * stride, Home: -last, End: last };
    if (event.key === "Enter" && spec) spec.onPick?.(nearest(cursor));
    else if (event.key in steps && spec) move(Math.min(last, Math.max(0, cursor + steps[event.key])));
    else return;
    event.preventDefault();
  });
  const observer = new ResizeObserver(() => root.clientWidth !== width && draw());
  observer.observe(root);
  return {
    update(next) {
      spec = next;
      draw();
    },
    stop() {
      observer.disconnect();
      hideTip();
    },
  };
}

function drawPanel({ title, height, log, lines }, top, width, x) {
  const group = s("g");
  const values = lines.flatMap((line) => [...(line.low ?? line.y), ...(line.high ?? [])]).filter((v) => !log || v > 0);
  let [low, high] = d3.extent(values.length ? values : [0, 1]);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
  const y = (log ? d3.scaleLog : d3.scaleLinear)([low, high], [top + height, top]);
  const usual = y.ticks(height > 150 ? 6 : 3);
  const ticks = log && usual.length > 8 ? usual.filter((t) => /^[125]/.test(t.toExponential())) : usual;
  for (const tick of ticks) {
    group.append(s("path", { class: "grid", d: `M${LEFT} ${y(tick)}H${width - RIGHT}` }),
      s("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  }
  group.append(s("text", { class: "title", x: 4, y: top - 8 }, title));
  const defined = (v) => !log || v > 0;
  for (const line of lines) {
    const index = d3.range(line.x.length), at = (i) => x(line.x[i]);
    if (line.low && line.low.every((low, i) => low === line.high[i])) {
      const raw = d3.line().defined((i) => defined(line.low[i])).x(at).y((i) => y(line.low[i]));
      group.append(s("path", { class: `raw ${line.css}`, d: raw(index) }));
    } else if (line.low) {
      const area = d3.area().defined((i) => defined(line.low[i])).x(at).y0((i) => y(line.low[i]) + 0.5).y1((i) => y(line.high[i]) - 0.5);
      group.append(s("path", { class: `range ${line.css}`, d: area(index) }));
    }
    const path = d3.line().defined((i) => defined(line.y[i])).x(at).y((i) => y(line.y[i]));
    group.append(s("path", { class: `curve ${line.css}${line.thin ? " thin" : ""}`, d: path(index) }));
    if (line.dots && line.x.length < 150) {
      for (const i of index.filter((i) => defined(line.y[i]))) group.append(s("circle", { class: `dot ${line.css}`, cx: at(i), cy: y(line.y[i]), r: 3 }));
    }
  }
  return group;
}

function tickText(value) {
  return d3.format(value !== 0 && Math.abs(value) < 1e-4 ? ".2~e" : ".4~r")(value);
}

/** The axis of steps, with the marks of checkpoints on it. */
function drawSteps({ xName, marks, chosen }, x, height, width) {
  const group = s("g"), base = height - BOTTOM;
  group.append(s("path", { class: "axis", d: `M${LEFT} ${base}H${width - RIGHT}` }));
  for (const tick of x.ticks(width > 600 ? 8 : 4)) {
    group.append(s("text", { class: "tick", x: x(tick), y: base + 22, "text-anchor": x(tick) > width - RIGHT - 24 ? "end" : "middle" }, d3.format(tick >= 1e6 ? ".3~s" : ",")(tick)));
  }
  group.append(s("text", { class: "tick", x: 4, y: base + 22 }, xName));
  for (const mark of marks ?? []) {
    const at = x(mark), picked = mark === chosen;
    if (picked) group.append(s("path", { class: "chosen", d: `M${at} ${TOP}V${base}` }));
    const triangle = s("path", { class: picked ? "mark picked" : "mark", d: `M${at} ${base - 7}l5 8h-10z` });
    triangle.append(s("title", {}, `checkpoint of step ${mark}`));
    group.append(triangle);
  }
  return group;
}

/** A legend: a line's look and its name. */
export function legend(lines) {
  return h("ul", { class: "legend" }, lines.map(({ css, name, range, dots }) =>
    h("li", {}, h("span", { class: `line-swatch ${css}${range ? " faint-swatch" : ""}${dots ? " dotted" : ""}` }), name)));
}
