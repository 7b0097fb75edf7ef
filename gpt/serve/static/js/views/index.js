// All views in the order of the navigation. A view is { id, title, section, text, tasks, mount(root) -> unmount }.

import chat from "./chat.js";
import classify from "./classify.js";
import tokens from "./tokens.js";

export const views = [chat, classify, tokens];
