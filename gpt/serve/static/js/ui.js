// Helpers for all views. Text reaches the page through textContent alone, so a token can never become markup.

/** An element: h("button", { class: "primary", onclick: f, "aria-label": "x" }, "text", child, ...). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Makes `children` the children of `parent`. Those that stay are not taken out: a click on them would be lost. */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.childNodes]) if (!wanted.has(child)) child.remove();
  children.forEach((child, i) => {
    if (parent.childNodes[i] !== child) parent.insertBefore(child, parent.childNodes[i] ?? null);
  });
}

/** Sets the text of an element, if it has another one. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const SIGNS = { " ": "·", "\n": "↵", "\t": "→" };
const INVISIBLE = /([\p{Z}\p{C}])/u; // spaces, controls, marks that change the direction of text, private use

/** What is shown for an invisible character: a sign, or its code as Python writes it, such as \u202e. */
function sign(character) {
  const code = character.codePointAt(0), hex = code.toString(16);
  if (character in SIGNS) return SIGNS[character];
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/** A token's text with white space made visible: spaces as ·, line feeds as ↵, tabs as →, others by their code. */
export function tokenText(text) {
  const parts = text.split(INVISIBLE).filter((part) => part !== "");
  return parts.map((part) => (INVISIBLE.test(part) ? h("span", { class: "space" }, sign(part)) : part));
}

/** The same as plain text, for labels of pictures. */
export function tokenLabel(text) {
  return text.split(INVISIBLE).map((part) => (INVISIBLE.test(part) ? sign(part) : part)).join("");
}

/** A number for people: three significant digits. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "not finite";
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) return value.toExponential(digits - 1);
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

export function percent(p) {
  if (!Number.isFinite(p)) return "not finite";
  if (p > 0 && p < 0.0005) return `${Number((100 * p).toPrecision(2))} %`; // of 50,257 tokens most are below 0.01 %
  return p >= 0.9995 && p < 1 ? ">99.9 %" : `${(100 * p).toFixed(1)} %`;
}

/** A figure by its name in metrics.jsonl, as figure_text in look/figures.py: all but shares and counts have four decimals. */
export function figure(name, value) {
  if (name.endsWith("accuracy") || name === "exact_match") return percent(value);
  if (!Number.isFinite(value)) return "not finite";
  if (name === "test_repeated") return value.toLocaleString("en");
  return value > 1 && Number.isInteger(value) && !name.endsWith("loss") ? value.toLocaleString("en") : value.toFixed(4);
}

// ----- colours: from the theme, so that both themes are readable ---------------------------------------------------

export function cssColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** A colour for a share from 0 to 1: the background to `name` of the theme. */
export function sequential(name = "accent") {
  return d3.interpolateRgb(cssColor("background"), cssColor(name));
}

/** A colour for -1 to 1: cold, background, warm. */
export function diverging() {
  const [cold, middle, warm] = ["cold", "background", "warm"].map(cssColor);
  return (x) => (x < 0 ? d3.interpolateRgb(middle, cold)(-x) : d3.interpolateRgb(middle, warm)(x));
}

/** Calls `redraw()` when the theme changes, for colours that are computed; returns a function that ends that. */
export function onTheme(redraw) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  return () => dark.removeEventListener("change", redraw);
}

// ----- pictures ------------------------------------------------------------------------------------------------

/** Draws a matrix (rows of numbers) into a canvas, `cell` pixels a number; null is drawn as the line colour. */
export function heatMap(canvas, rows, { color, low = 0, high = 1, cell = 8 }) {
  const height = rows.length, width = rows[0]?.length ?? 0;
  canvas.width = width * cell;
  canvas.height = height * cell;
  const context = canvas.getContext("2d");
  const none = cssColor("line");
  rows.forEach((row, i) => row.forEach((value, j) => {
    context.fillStyle = value === null ? none : color(low + (high - low) * value);
    context.fillRect(j * cell, i * cell, cell, cell);
  }));
  return canvas;
}

/** Numbers that the server sent as base64 of little-endian float32. */
export function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

// ----- a tooltip for hover and focus -------------------------------------------------------------------------------

let tip = null;

/** Shows `content()` beside the element while the pointer is over it or it has the focus. */
export function tooltip(element, content) {
  const show = () => showTip(element.getBoundingClientRect(), content());
  element.addEventListener("pointerenter", show);
  element.addEventListener("focus", show);
  element.addEventListener("pointerleave", hideTip);
  element.addEventListener("blur", hideTip);
}

export function showTip(box, content) {
  hideTip();
  if (!content) return;
  tip = h("div", { class: "tooltip", role: "tooltip" }, content);
  document.body.append(tip);
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(4, Math.min(box.left, innerWidth - width - 4));
  const below = box.bottom + 6 + height < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? box.bottom + 6 : Math.max(4, box.top - height - 6)}px`;
}

export function hideTip() {
  tip?.remove();
  tip = null;
}

// ----- work in progress ----------------------------------------------------------------------------------------

/**
 * Runs `work(signal)`; the newest call wins: an older one of the same `latest()` is aborted, and ends with the newest.
 * Shows errors in `root`.
 */
export function latest(root) {
  let controller = null, newest = null;
  const attempt = async (work) => {
    controller?.abort();
    const mine = (controller = new AbortController());
    root.setAttribute("aria-busy", "true");
    try {
      await work(mine.signal);
      if (mine === controller) root.querySelector(":scope > .error")?.remove();
    } catch (error) {
      if (error.name !== "AbortError" && mine === controller) showError(root, error);
    } finally {
      if (mine === controller) {
        root.removeAttribute("aria-busy");
      }
    }
    if (mine !== controller) await newest;
  };
  const run = (work) => (newest = attempt(work));
  run.stop = () => controller?.abort();
  return run;
}

/** Hides all of a view but its title and introduction until `answers` are drawn: then nothing moves under the pointer. */
export async function showOnce(root, ...answers) {
  root.classList.add("unanswered");
  await Promise.allSettled(answers);
  root.classList.remove("unanswered");
}

/** One sentence at the top of `root`. An unexpected error is in the console too. */
export function showError(root, error) {
  root.querySelector(":scope > .error")?.remove();
  root.prepend(h("div", { class: "error", role: "alert" }, error.message));
  if (error.constructor.name !== "ServerError") console.error(error);
}

/** Calls `f` after the last call, when `ms` have passed. */
export function debounce(f, ms = 300) {
  let timer = null;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => f(...args), ms);
  };
}

let numbered = 0;

/** A labelled control: field("temperature", h("input", {...})). A checkbox stands before its label. */
export function field(label, control, ...more) {
  control.id ||= `field-${++numbered}`;
  const name = h("span", {}, label);
  const parts = control.type === "checkbox" ? [control, name] : [name, control];
  return h("label", { for: control.id, class: "field" }, parts, ...more);
}
