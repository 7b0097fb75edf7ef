// All views in the order of the navigation. A view is { id, title, section, text, tasks, mount(root) -> unmount }.

import learn from "./learn.js";
import tokens from "./tokens.js";

export const views = [tokens, learn];
