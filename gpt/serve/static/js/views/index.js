// All views in the order of the navigation. A view is { id, title, section, text, tasks, mount(root) -> unmount }.

import tokens from "./tokens.js";
import write from "./write.js";

export const views = [write, tokens];
