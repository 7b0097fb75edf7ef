// The drawing of an autograd graph: boxes and arrows where the server placed them, zoomed and panned by d3.

import { number } from "./ui.js";

const MARGIN = 24;
const LEAST = 0.08, MOST = 2.5; // scales
const MARKS = { visited: "✓", current: "●", waiting: "…", ahead: "" };

/** The drawing in `svg` of what /api/backward sent. `onSelect(number)` is called when a visited box is clicked. */
export function backwardGraph(svg, data, onSelect) {
  const root = d3.select(svg);
  root.selectAll("*").remove();
  root.append("defs").selectAll("marker").data(["forward", "sent"]).join("marker")
    .attr("id", (id) => `tip-${id}`).attr("class", (id) => `tip-${id}`)
    .attr("viewBox", "0 0 8 8").attr("refX", 7).attr("refY", 4)
    .attr("markerWidth", (id) => (id === "sent" ? 5 : 7)).attr("markerHeight", (id) => (id === "sent" ? 5 : 7))
    .attr("orient", "auto-start-reverse")
    .append("path").attr("d", "M0 0.8 L7.5 4 L0 7.2 z");
  const canvas = root.append("g");
  const several = new Set(d3.groups(data.arrows, (a) => a.target).filter(([, all]) => all.length > 1).map(([n]) => n));
  const arrows = canvas.append("g").selectAll("path").data(data.arrows).join("path").attr("d", (a) => a.path);
  canvas.append("g").selectAll("text").data(data.arrows.filter((a) => several.has(a.target))).join("text")
    .attr("class", "argument").attr("x", (a) => a.x).attr("y", (a) => a.y).text((a) => a.argument);
  const nodes = canvas.append("g").selectAll("g").data(data.nodes).join("g")
    .attr("transform", (n) => `translate(${n.x} ${n.y})`)
    .on("click", (event, n) => onSelect(n.number));
  const wider = (n) => (n.value === null ? 0 : 10); // room for the value and the gradient of a single number
  nodes.append("rect").attr("x", (n) => -wider(n)).attr("width", (n) => n.width + 2 * wider(n)).attr("height", (n) => n.height).attr("rx", (n) => (n.op ? 7 : 16));
  nodes.append("text").attr("class", "mark").attr("x", (n) => -6 - wider(n)).attr("y", (n) => n.height / 2 + 4);
  nodes.each(function (n) {
    d3.select(this).selectAll("text.line").data(n.lines).join("text").attr("class", (_, i) => `line line-${i}`)
      .attr("x", n.width / 2).attr("y", (_, i) => 6 + 16 * (i + 0.75)).text((line) => line);
  });

  const zoom = d3.zoom().scaleExtent([LEAST, MOST])
    .filter((event) => !event.button && (event.type !== "wheel" || event.ctrlKey) && event.touches?.length !== 1)
    .on("zoom", ({ transform, sourceEvent }) => {
      canvas.attr("transform", transform);
      if (sourceEvent) target = transform;
    });
  root.call(zoom).on("dblclick.zoom", null);

  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let target = d3.zoomIdentity; // where the view is, or where it is moving to
  const move = (transform, smooth) => {
    target = transform;
    (smooth && !calm.matches ? root.transition().duration(250) : root.interrupt()).call(zoom.transform, transform);
  };
  const size = () => [svg.clientWidth, svg.clientHeight];

  const fitted = () => {
    const [width, height] = size();
    const k = Math.min(1, (width - 2 * MARGIN) / data.width, (height - 2 * MARGIN) / data.height);
    return d3.zoomIdentity.translate((width - k * data.width) / 2, (height - k * data.height) / 2).scale(k);
  };

  /** Moves the box of the node into view; at first, or with `center`, to the middle. */
  const reveal = (n, { center = false, smooth = true } = {}) => {
    const { k, x, y } = target;
    const [width, height] = size();
    const [left, top] = [k * n.x + x, k * n.y + y];
    const [right, bottom] = [left + k * n.width, top + k * n.height];
    const pad = 12;
    if (!center && left > pad && right < width - pad && top > pad && bottom < height - pad) return;
    const middle = d3.zoomIdentity.translate(width / 2, height / 2).scale(k)
      .translate(-(n.x + n.width / 2), -(n.y + n.height / 2));
    move(middle, smooth);
  };

  return {
    fit: (smooth = true) => move(fitted(), smooth),
    /** Zoom by a factor; the middle of the view stays where it is. */
    scale(factor) {
      const [width, height] = size();
      const k = Math.max(LEAST, Math.min(MOST, target.k * factor));
      const [x, y] = target.invert([width / 2, height / 2]);
      move(d3.zoomIdentity.translate(width / 2 - k * x, height / 2 - k * y).scale(k), true);
    },
    /** The whole graph where it stays readable, otherwise its part around a node. */
    start(n) {
      const whole = fitted();
      if (whole.k >= 0.55) return move(whole, false);
      target = d3.zoomIdentity.scale(0.9);
      reveal(n, { center: true, smooth: false });
    },
    reveal,
    /** Colours every node by its state and draws the gradients that the current node sends. */
    show(states, gradients) {
      nodes.attr("class", (n) => `node ${n.op ? "op" : n.kind} ${states.get(n.number)}`)
        .select(".mark").text((n) => MARKS[states.get(n.number)]);
      const sent = (a) => states.get(a.target) === "current" && states.get(a.source) !== "constant";
      arrows.attr("class", (a) => `arrow ${sent(a) ? "sent" : states.get(a.target)}`)
        .attr("marker-end", (a) => (sent(a) ? null : "url(#tip-forward)"))
        .attr("marker-start", (a) => (sent(a) ? "url(#tip-sent)" : null));
      nodes.filter((n) => n.value !== null).each(function (n) {
        const g = gradients.get(n.number);
        const known = ["visited", "current"].includes(states.get(n.number)) ? `, g = ${number(g)}` : "";
        d3.select(this).select(".line-1").text(`${number(n.value)}${known}`);
      });
    },
  };
}
