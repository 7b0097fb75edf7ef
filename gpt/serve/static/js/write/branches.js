// The texts that were written, each a branch: a list of tokens, the first `prompt` of which are the prompt.
// A token is as from /api/generate, with its source: "prompt", "drawn" or "chosen" (by the reader, as an alternative).

const MOST = 50; // steps that can be undone

/** An empty set of branches, with its history for undo. */
export function makeBranches() {
  let now = { branches: [], current: 0 };
  const history = [];
  const copy = () => ({ ...now, branches: now.branches.map((branch) => ({ ...branch, tokens: [...branch.tokens] })) });

  return {
    get all() { return now.branches; },
    get index() { return now.current; },
    get current() { return now.branches[now.current] ?? null; },
    get canUndo() { return history.length > 0; },

    /** Remembers the present state: `undo` returns to it. `note` is returned by `undo`. */
    remember(note) {
      history.push({ ...copy(), note });
      if (history.length > MOST) history.shift();
    },
    undo() {
      const { note, ...then } = history.pop();
      now = then;
      return note;
    },
    forget() {
      history.length = 0;
      now = { branches: [], current: 0 };
    },
    /** Begins again with one branch. */
    begin(branch) {
      now = { branches: [branch], current: 0 };
    },
    /** Adds a branch and makes it the current one. */
    add(branch) {
      now.branches.push(branch);
      now.current = now.branches.length - 1;
    },
    choose(index) {
      now.current = index;
    },
  };
}

/** A new branch. `at`: the index of its first token that differs from the branch `from`. */
export function branchOf(tokens, { from = null, at = null, text = "", model = "" } = {}) {
  return { tokens, from, at, text, model };
}
