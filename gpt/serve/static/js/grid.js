// A table whose cells are chosen with the pointer or the arrow keys, and the scale of its colours.

import { cssColor, h, hideTip, showTip } from "./ui.js";

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Black or white, whichever has the larger contrast on a colour (at least 4.5, WCAG AA). */
export function readable(color) {
  const { r, g, b } = d3.rgb(color);
  const [R, G, B] = [r, g, b].map((x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * R + 0.7152 * G + 0.0722 * B > 0.179 ? "#000000" : "#ffffff";
}

/**
 * A grid of cells: rows x columns, one of which is chosen. `draw({ columns, rows, cell, head, foot })` fills it:
 * `rows` are names, `columns` the contents of the first row after the name `head`; `cell(i, j)` gives
 * { content, color, label, framed }, whose label begins with the content's text; `foot` is { name, contents } of a last
 * row, or missing. `onSelect(i, j)` is called when the reader chooses a cell, `tip(i, j)` gives its tooltip's content.
 */
export function grid(label, { onSelect, tip }) {
  const table = h("table", { class: "grid", role: "grid", "aria-label": label });
  const element = h("div", { class: "scroll" }, table);
  let cells = [], chosen = [0, 0];

  const mark = () => {
    cells.forEach((row, i) => row.forEach((cell, j) => {
      const same = i === chosen[0] && j === chosen[1];
      cell.tabIndex = same ? 0 : -1;
      cell.setAttribute("aria-selected", String(same));
      cell.classList.toggle("same-column", j === chosen[1]);
    }));
  };
  const select = (i, j) => {
    chosen = [Math.max(0, Math.min(i, cells.length - 1)), Math.max(0, Math.min(j, (cells[0]?.length ?? 1) - 1))];
    mark();
    reveal(cells[chosen[0]]?.[chosen[1]]);
  };
  /** Scrolls the grid, not the page, until the cell is not hidden by its edges or by the names of the rows. */
  const reveal = (cell) => {
    if (!cell) return;
    const left = cell.offsetLeft - cell.parentElement.firstChild.offsetWidth - 8;
    const right = cell.offsetLeft + cell.offsetWidth + 8;
    if (element.scrollLeft > left) element.scrollLeft = left;
    else if (element.scrollLeft + element.clientWidth < right) element.scrollLeft = right - element.clientWidth;
  };
  const place = (event) => {
    const cell = event.target.closest("td[data-row]");
    return cell && [Number(cell.dataset.row), Number(cell.dataset.column)];
  };
  table.addEventListener("click", (event) => {
    const at = place(event);
    if (!at) return;
    select(...at);
    cells[at[0]][at[1]].focus();
    onSelect(...at);
  });
  table.addEventListener("keydown", (event) => {
    const last = cells[0]?.length - 1;
    const [di, dj] = MOVES[event.key] ?? { Home: [0, -last], End: [0, last] }[event.key] ?? [];
    if (di === undefined || !place(event)) return;
    event.preventDefault();
    select(chosen[0] + di, chosen[1] + dj);
    cells[chosen[0]][chosen[1]].focus();
    onSelect(...chosen);
  });
  const show = (event) => {
    const at = place(event);
    if (at) showTip(cells[at[0]][at[1]].getBoundingClientRect(), tip(...at));
  };
  table.addEventListener("pointerover", show);
  table.addEventListener("focusin", show);
  table.addEventListener("pointerout", hideTip);
  table.addEventListener("focusout", hideTip);
  element.addEventListener("scroll", hideTip);

  const draw = ({ columns, rows, cell, head, foot }) => {
    const focused = table.contains(document.activeElement);
    cells = rows.map((_, i) => columns.map((_, j) => {
      const { content, color, label: name, framed } = cell(i, j);
      const element = h("td", {
        role: "gridcell", "data-row": String(i), "data-column": String(j), "aria-label": name,
        class: framed ? "framed" : null,
      }, content);
      element.style.background = color;
      element.style.color = readable(color);
      return element;
    }));
    const line = (name, more) => h("tr", {}, h("th", { scope: "row" }, name), more);
    table.replaceChildren(
      h("thead", {}, line(head, columns.map((content) => h("th", { scope: "col" }, content)))),
      h("tbody", {}, rows.map((name, i) => line(name, cells[i]))),
      foot ? h("tfoot", {}, line(foot.name, foot.contents.map((content) => h("td", {}, content)))) : "",
    );
    select(...chosen);
    if (focused) cells[chosen[0]]?.[chosen[1]]?.focus({ preventScroll: true });
  };
  return { element, draw, select };
}

/** The scale of the colours of `color`, a function of shares from `low` to `high`, with the texts at both ends. */
export function legend(color, texts, { low = 0, high = 1 } = {}) {
  const bar = h("span", { class: "legend-bar", "aria-hidden": "true" });
  const stops = d3.range(11).map((i) => color(low + ((high - low) * i) / 10));
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  bar.style.borderColor = cssColor("line");
  return h("span", { class: "legend" }, h("span", {}, texts[0]), bar, h("span", {}, texts[1]));
}
