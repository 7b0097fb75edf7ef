// All views in the order of the navigation. A view is { id, title, section, text, tasks, mount(root) -> unmount }.

import write from "./write.js";
import chat from "./chat.js";
import classify from "./classify.js";
import tokens from "./tokens.js";
import attention from "./attention.js";
import lens from "./lens.js";
import residual from "./residual.js";
import embeddings from "./embeddings.js";
import learn from "./learn.js";
import backward from "./backward.js";
import training from "./training.js";
import runs from "./runs.js";

export const views = [write, chat, classify, tokens, attention, lens, residual, embeddings, learn, backward, training, runs];
