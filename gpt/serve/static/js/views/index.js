// All views in the order of the navigation. A view is { id, title, section, text, tasks, mount(root) -> unmount }.

import backward from "./backward.js";
import tokens from "./tokens.js";

export const views = [tokens, backward];
