// All views in the order of the navigation. A view is { id, title, section, text, tasks, mount(root) -> unmount }.

import embeddings from "./embeddings.js";
import lens from "./lens.js";
import residual from "./residual.js";
import tokens from "./tokens.js";

export const views = [tokens, lens, residual, embeddings];
