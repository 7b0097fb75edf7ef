// The distribution of the next token at any temperature, top-k and top-p, from what the server sent once: the largest
// logits exactly, the others as a histogram (gpt/look/next_token.py states the error).

/**
 * The distribution from which a token is drawn. `expected` is { logits, tail, width, vocab_size }; topK and topP may be
 * null. As in gpt/generate.py, top-k keeps the k most probable tokens, then top-p the fewest of these that add up to p;
 * tokens exactly as probable as the last one kept are kept too.
 *
 * The result is { kept, probability(logit, rank), error }: how many tokens can be drawn, the probability of one, and a
 * bound of the relative error of the probabilities.
 */
export function shape(expected, { temperature, topK = null, topP = null }) {
  if (temperature === 0) return { kept: 1, probability: (logit, rank) => (rank === 1 ? 1 : 0), error: 0 };
  const { width } = expected;
  const largest = expected.logits[0];
  const weight = (logit) => Math.exp((logit - largest) / temperature);
  let groups = [
    ...expected.logits.map((logit) => ({ count: 1, logit, exact: true })),
    ...expected.tail.map(([count, logit]) => ({ count, logit, exact: false })),
  ].map((group) => ({ ...group, weight: weight(group.logit) }));
  if (topK !== null) groups = first(groups, (before) => topK - before.count);
  const total = sum(groups);
  // Of a whole bin, the mean stands for n weights with a relative error below the first; of a part, below the second.
  const whole = Math.expm1((width / temperature) ** 2 / 8), part = Math.expm1(width / temperature);
  let error = sum(groups.filter(({ exact }) => !exact), ({ cut }) => (cut ? part : whole)) / total;
  if (topP !== null && topP < 1) {
    // The sum of what is kept is above p by less than the last token, whichever that is where the error decides.
    groups = first(groups, (before, group) => Math.ceil((topP * total - before.weight) / group.weight));
    const last = groups.at(-1), sumKept = sum(groups), wanted = topP * total;
    const near = sumKept < wanted * (1 + error) || sumKept - last.weight >= wanted * (1 - error);
    if (!last.exact || (error > 0 && near)) error += (last.weight * (last.exact ? 1 : 1 + part)) / wanted;
  }
  const kept = groups.reduce((count, group) => count + group.count, 0);
  const normalizer = sum(groups);
  return { kept, probability: (logit, rank) => (rank <= kept ? weight(logit) / normalizer : 0), error };
}

function sum(groups, factor = () => 1) {
  return groups.reduce((total, group) => total + group.count * group.weight * factor(group), 0);
}

/** The first tokens of the groups: `room(before, group)` says how many of a group are kept at most. Keeps ties. */
function first(groups, room) {
  const kept = [];
  const before = { count: 0, weight: 0 };
  for (const group of groups) {
    const tie = group.exact && kept.length > 0 && group.logit === kept.at(-1).logit;
    const count = tie ? group.count : Math.min(group.count, Math.max(0, room(before, group)));
    if (count === 0) break;
    kept.push({ ...group, count, cut: group.cut || count < group.count });
    before.count += count;
    before.weight += count * group.weight;
    if (count < group.count) break;
  }
  return kept;
}

/** What the sliders do to a token: { kept, probability, error } of its distribution, with its own `probability`. */
export function shapeOf(token, options) {
  if (!token.expected) return null;
  const shaped = shape(token.expected, options);
  return { ...shaped, own: shaped.probability(token.logit, token.rank) };
}
