// All heads: as thumbnails, and as a table of what they read, which can be sorted.

import { h, number, tooltip } from "../../ui.js";
import { byteColors } from "./palette.js";

export const SHARES = [
  ["previous", "previous token", "the previous token"],
  ["first", "first token", "the first token"],
  ["itself", "itself", "the token itself"],
  ["same", "same token before", "earlier occurrences of the same token"],
  ["after_same", "after same token", "the token after an earlier occurrence of the same token"],
];
const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`);

/** A head in words: the share that exceeds uniform attention most, with both numbers. */
export function described(one, uniform) {
  const found = SHARES.find(([name]) => name === one.kind);
  if (!found) return "no share is clearly larger than with uniform attention";
  return `${share(one[one.kind])} of the weight on ${found[2]} (uniform attention: ${share(uniform[one.kind])})`;
}

export function thumbnails(choose) {
  const root = h("div", { class: "heads-grid", role: "group", "aria-label": "all heads: arrow keys move, Enter chooses" });
  let buttons = [], columns = 1;

  function set({ layers, heads, side, thumbnails: base64, shares, uniform }) {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    if (buttons.length !== layers * heads || columns !== heads) build(layers, heads);
    const colors = byteColors();
    buttons.forEach((button, i) => {
      paint(button.firstChild, bytes.subarray(i * side * side, (i + 1) * side * side), side, colors);
      button.note = `block ${shares[i].layer}, head ${shares[i].head}: ${described(shares[i], uniform)}`;
      button.setAttribute("aria-label", button.note);
    });
  }

  function build(layers, heads) {
    columns = heads;
    root.style.gridTemplateColumns = `auto repeat(${heads}, minmax(24px, 110px))`;
    const cells = [h("span")];
    for (let head = 0; head < heads; head++) cells.push(h("span", { class: "axis" }, heads > 6 ? String(head) : `head ${head}`));
    buttons = [];
    for (let layer = 0; layer < layers; layer++) {
      cells.push(h("span", { class: "axis" }, heads > 6 ? String(layer) : `block ${layer}`));
      for (let head = 0; head < heads; head++) {
        const index = buttons.length;
        const button = h("button", {
          type: "button", class: "thumbnail", tabindex: "-1",
          onclick: () => choose(layer, head),
          onkeydown: (event) => move(event, index),
        }, h("canvas", { "aria-hidden": "true" }));
        tooltip(button, () => button.note);
        buttons.push(button);
        cells.push(button);
      }
    }
    root.replaceChildren(...cells);
  }

  function move(event, i) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const to = buttons[i + steps[event.key]];
    if (!to) return;
    event.preventDefault();
    to.focus();
  }

  function mark(layer, head) {
    buttons.forEach((button, i) => {
      const chosen = i === layer * columns + head;
      button.setAttribute("aria-pressed", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    });
  }

  /** A line in every thumbnail at the row of the token `i` of `count`. */
  function row(i, count) {
    root.style.setProperty("--row", i === null ? "-1" : `${(100 * (i + 0.5)) / count}%`);
    root.classList.toggle("with-row", i !== null);
  }

  return { root, set, mark, row };
}

function paint(canvas, bytes, side, colors) {
  [canvas.width, canvas.height] = [side, side];
  const image = new ImageData(side, side);
  bytes.forEach((byte, i) => image.data.set([...colors[byte], 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function headsTable(choose) {
  const body = h("tbody");
  const columns = [["index", "head"], ...SHARES.map(([name, title]) => [name, title]), ["distance", "distance"]];
  let data = null, order = "index", descending = false, chosen = [0, 0];
  const headings = columns.map(([name, title]) => h("th", { scope: "col", class: name === "index" ? null : "number" },
    h("button", { type: "button", class: "sort", onclick: () => sort(name) }, title)));
  const root = h("div", { class: "scroll heads-table", tabindex: "0", role: "region", "aria-label": "what each head reads" },
    h("table", {}, h("thead", {}, h("tr", {}, ...headings)), body));

  function sort(name) {
    descending = name === order ? !descending : name !== "index";
    order = name;
    draw();
  }

  function set(newData) {
    data = newData;
    draw();
  }

  function mark(layer, head) {
    chosen = [layer, head];
    draw();
  }

  function draw() {
    if (!data) return;
    headings.forEach((heading, i) => heading.setAttribute("aria-sort",
      columns[i][0] !== order ? "none" : descending ? "descending" : "ascending"));
    const key = (one) => (order === "index" ? one.layer * data.heads + one.head : one[order] ?? -1);
    const sorted = [...data.shares].sort((a, b) => (descending ? key(b) - key(a) : key(a) - key(b)));
    body.replaceChildren(row(data.uniform, "uniform"), ...sorted.map((one) => row(one)));
  }

  function row(one, title) {
    const name = `${one.layer}.${one.head}`;
    const current = !title && one.layer === chosen[0] && one.head === chosen[1];
    const button = h("button", {
      type: "button", class: "link", "aria-pressed": String(current), "aria-label": `${name}: block ${one.layer}, head ${one.head}`,
      onclick: () => choose(one.layer, one.head),
    }, name);
    return h("tr", { class: title ? "uniform" : current ? "current" : null },
      h("th", { scope: "row" }, title ?? button),
      ...SHARES.map(([key]) => bar(share(one[key]), one[key], !title && one.kind === key)),
      h("td", { class: "number" }, one.distance === null ? "–" : number(one.distance, 2)));
  }

  function bar(text, value, strong) {
    const cell = h("td", { class: strong ? "number strong" : "number" }, text);
    const width = `${100 * (value ?? 0)}%`;
    cell.style.background = `linear-gradient(to right, color-mix(in srgb, var(--accent) 28%, transparent) ${width}, transparent ${width})`;
    return cell;
  }

  return { root, set, mark };
}
