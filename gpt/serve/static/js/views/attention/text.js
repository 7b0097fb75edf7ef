// The text with one row of attention weights drawn as arcs, and as the tokens' backgrounds.

import { h, hideTip, percent, showTip, tokenLabel, tokenText } from "../../ui.js";
import { readableOn, weightColor } from "./palette.js";

const MOST = 40; // arcs
const LEAST = 0.002; // a weight that has an arc

/** `point(i)` and `leave()` follow pointer and focus, `pick(i)` a click. */
export function attentionText({ point, leave, pick }) {
  const svg = d3.create("svg").attr("class", "arcs").attr("aria-hidden", "true").node();
  const line = h("div", { class: "arc-tokens", role: "group", "aria-label": "tokens of the text" });
  const root = h("div", { class: "arc-text" }, svg, line);
  let buttons = [];
  let last = null; // the arguments of the last show()

  function set(tokens) {
    hideTip();
    buttons = tokens.map(({ text }, i) => h("button", {
      type: "button", class: "token", tabindex: i ? "-1" : "0", "aria-label": `token ${i}: ${tokenLabel(text)}`,
      onpointerenter: () => point(i),
      onpointerleave: leave,
      onfocus: () => point(i),
      onblur: leave,
      onclick: () => pick(i),
      onkeydown: (event) => move(event, i),
    }, tokenText(text)));
    line.replaceChildren(...buttons);
  }

  function move(event, i) {
    const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || !buttons[to]) return;
    event.preventDefault();
    buttons[to].focus();
  }

  /** Draws row `i`: `weights` of all tokens. `picked` is the token that stays chosen. */
  function show(i, weights, picked) {
    last = [i, weights, picked];
    const color = weightColor();
    buttons.forEach((button, k) => {
      const background = color(weights[k]);
      button.style.background = background;
      button.style.color = readableOn(background);
      button.classList.toggle("reads", k === i);
      button.setAttribute("aria-pressed", String(k === picked));
      button.tabIndex = k === picked ? 0 : -1;
    });
    drawArcs(i, weights);
  }

  function drawArcs(i, weights) {
    svg.setAttribute("width", line.clientWidth);
    svg.setAttribute("height", line.clientHeight);
    const arcs = strongest(weights, MOST).map((k) => ({ k, weight: weights[k] })).filter(({ weight }) => weight >= LEAST);
    d3.select(svg).selectAll("path").data(arcs.reverse()).join("path")
      .attr("d", ({ k }) => path(buttons[i], buttons[k]))
      .attr("stroke-width", ({ weight }) => 0.8 + 6 * weight)
      .attr("stroke-opacity", ({ weight }) => 0.2 + 0.8 * Math.sqrt(weight));
  }

  /** Scrolls the box around the text so that token `i` can be seen. */
  function reveal(i) {
    const box = root.parentElement;
    box.scrollTop = buttons[i].offsetTop + buttons[i].offsetHeight / 2 - box.clientHeight / 2;
  }

  /** Beside the token with the focus or pointer: what it reads most. */
  function tip(i, tokens, weights) {
    const most = strongest(weights, 5);
    showTip(buttons[i].getBoundingClientRect(), h("div", {},
      h("div", {}, `token ${i}, id ${tokens[i].id}, reads`),
      ...most.map((k) => h("div", { class: "mono" }, `${percent(weights[k])}  ${tokenLabel(tokens[k].text)} (${k})`))));
  }

  const watcher = new ResizeObserver(() => last && buttons.length === last[1].length && drawArcs(last[0], last[1]));
  watcher.observe(line);
  return { root, set, show, reveal, tip, stop: () => watcher.disconnect() };
}

/** An arc above one line of text, or a curve from the reading token up or down to another line. */
function path(from, to) {
  const [x, y] = [from.offsetLeft + from.offsetWidth / 2, from.offsetTop];
  const [u, v] = [to.offsetLeft + to.offsetWidth / 2, to.offsetTop];
  if (from === to) return `M${x - 4},${y} C${x - 9},${y - 16} ${x + 9},${y - 16} ${x + 4},${y}`;
  if (Math.abs(y - v) < 4) {
    const room = y < 100 ? y - 4 : 40; // above the first line there is more
    const height = Math.min(room, 10 + 0.25 * Math.abs(x - u)) * 4 / 3; // of the control points
    return `M${x},${y} C${x},${y - height} ${u},${v - height} ${u},${v}`;
  }
  const [start, end] = v < y ? [y, v + to.offsetHeight] : [y + from.offsetHeight, v];
  const bend = (start + end) / 2;
  return `M${x},${start} C${x},${bend} ${u},${bend} ${u},${end}`;
}

/** The indices of the `count` largest weights, the largest first. */
export function strongest(weights, count) {
  return [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, count).filter((k) => weights[k] > 0);
}

/** What a token reads, as a table with bars. */
export function readsTable(i, tokens, weights) {
  const rows = strongest(weights, 8).map((k) => {
    const bar = h("span", { class: "bar-of-weight", "aria-hidden": "true" });
    bar.style.width = `${100 * weights[k]}%`;
    return h("tr", {},
      h("td", { class: "number" }, percent(weights[k])),
      h("td", { class: "bar-cell" }, bar),
      h("td", {}, h("span", { class: "token" }, tokenText(tokens[k].text))),
      h("td", { class: "faint" }, k === i ? `${k}, itself` : `${k}, ${Math.abs(i - k)} ${k < i ? "before" : "after"}`));
  });
  return h("table", { class: "reads-table" },
    h("caption", {}, "Token ", h("span", { class: "token" }, tokenText(tokens[i].text)), ` at position ${i} reads most from`),
    h("thead", {}, h("tr", {}, h("th", { class: "number" }, "weight"), h("th", {}, h("span", { class: "skip" }, "bar")),
      h("th", {}, "token"), h("th", {}, "position"))),
    h("tbody", {}, ...rows));
}
