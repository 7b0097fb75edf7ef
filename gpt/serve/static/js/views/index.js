// All views in the order of the navigation. A view is { id, title, section, text, tasks, mount(root) -> unmount }.

import tokens from "./tokens.js";
import runs from "./runs.js";
import training from "./training.js";

export const views = [tokens, training, runs];
