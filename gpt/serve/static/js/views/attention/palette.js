// Colours of weights: by the square root, so that a weight of 1 % can be seen. Colours come from the theme.

import { cssColor, h, sequential } from "../../ui.js";

/** The colour of a weight from 0 to 1, as text. */
export function weightColor() {
  const color = sequential();
  return (weight) => color(Math.sqrt(weight));
}

/** 256 colours as [red, green, blue], for bytes that are 255 times the square root of a weight. */
export function byteColors() {
  const color = sequential();
  return Array.from({ length: 256 }, (_, i) => {
    const { r, g, b } = d3.rgb(color(i / 255));
    return [r, g, b];
  });
}

export function luminance(color) {
  const { r, g, b } = d3.rgb(color);
  const [red, green, blue] = [r, g, b].map((x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** The text colour of the theme with the higher contrast (WCAG 2) on a background. */
export function readableOn(background) {
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const on = luminance(background);
  const [text, other] = [cssColor("text"), cssColor("background")];
  return contrast(on, luminance(text)) >= contrast(on, luminance(other)) ? text : other;
}

/** The scale of the colours, and with `causal` the colour of what cannot be read. */
export function legend(causal) {
  const color = weightColor();
  const steps = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1];
  const swatch = (background, text) => {
    const box = h("span", { class: "weight-swatch", "aria-hidden": "true" });
    box.style.background = background;
    return h("span", { class: "legend-entry" }, box, text);
  };
  return h("p", { class: "note legend" }, "weight: ",
    ...steps.map((weight) => swatch(color(weight), `${100 * weight} %`)),
    causal ? swatch(cssColor("line"), "later tokens, which cannot be read")
      : "This model has no causal mask: a token reads later tokens too. The text is shown without padding.");
}
