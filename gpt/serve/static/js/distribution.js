// The distribution of the next token at any temperature, top-k and top-p, from what the server sent once: the largest
// logits exactly, the others as a histogram (gpt/look/next_token.py states the error).

const arrays = new WeakMap(); // of each `expected`

/** The groups of tokens in descending order: each of the first `exact` is one token, the others are bins. */
function groupsOf(expected) {
  if (!arrays.has(expected)) {
    const { logits, tail } = expected;
    arrays.set(expected, {
      logits: Float64Array.from([...logits, ...tail.map(([, mean]) => mean)]),
      counts: Float64Array.from([...logits.map(() => 1), ...tail.map(([count]) => count)]),
      exact: logits.length,
    });
  }
  return arrays.get(expected);
}

/**
 * The distribution from which a token is drawn. `expected` is { logits, tail, width, vocab_size }; topK and topP may be
 * null. As in gpt/generation.py, top-k keeps the k most probable tokens, then top-p the fewest of these that add up to p;
 * tokens exactly as probable as the last one kept are kept too.
 *
 * The result is { kept, probability(logit, rank), error }: how many tokens can be drawn, the probability of one, and a
 * bound of the relative error of the probabilities.
 */
export function shape(expected, { temperature, topK = null, topP = null }) {
  if (temperature === 0) return { kept: 1, probability: (logit, rank) => (rank === 1 ? 1 : 0), error: 0 };
  const groups = groupsOf(expected), { logits, counts, exact } = groups;
  const weight = (logit) => Math.exp((logit - logits[0]) / temperature);
  const weights = logits.map(weight);
  let kept = topK === null ? counts : first(groups, counts, weights, (count) => topK - count);
  const total = sum(kept, weights);
  // Of a whole bin, the mean stands for the tokens with a relative error below the first; of a part, below the second.
  const ratio = expected.width / temperature, whole = Math.expm1(ratio ** 2 / 8), part = Math.expm1(ratio);
  let error = 0;
  for (let i = exact; i < kept.length; i++) {
    error += (kept[i] * weights[i] * (kept[i] < counts[i] ? part : whole)) / total;
  }
  let normalizer = total;
  if (topP !== null && topP < 1) {
    const wanted = topP * total;
    kept = first(groups, kept, weights, (_, sumBefore, i) => Math.ceil((wanted - sumBefore) / weights[i]));
    normalizer = sum(kept, weights);
    // What is kept adds up to p plus less than the last token. `error` may change which token is the last.
    const last = kept.findLastIndex((count) => count > 0);
    const near = normalizer < wanted * (1 + error) || normalizer - weights[last] >= wanted * (1 - error);
    if (last >= exact) error += (weights[last] * (1 + part)) / wanted;
    else if (error > 0 && near) error += weights[last] / wanted;
  }
  const number = kept.reduce((a, b) => a + b, 0);
  return { kept: number, probability: (logit, rank) => (rank <= number ? weight(logit) / normalizer : 0), error };
}

function sum(counts, weights) {
  let total = 0;
  for (let i = 0; i < counts.length; i++) total += counts[i] * weights[i];
  return total;
}

/**
 * How many tokens of each group are among the first: at most `room(count, sum, i)` of group i, after `count` tokens
 * with this sum of weights. A token with the same logit as the one before is kept with it.
 */
function first({ logits, exact }, counts, weights, room) {
  const kept = new Float64Array(counts.length);
  let count = 0, sumBefore = 0;
  for (let i = 0; i < counts.length; i++) {
    const tie = i > 0 && i < exact && logits[i] === logits[i - 1];
    kept[i] = tie ? counts[i] : Math.min(counts[i], Math.max(0, room(count, sumBefore, i) || 0));
    count += kept[i];
    sumBefore += kept[i] * weights[i];
    if (kept[i] < counts[i] || kept[i] === 0) break;
  }
  return kept;
}

/** What the sliders do to a token: the `shape` of its distribution, with `own`, its probability; null without one. */
export function shapeOf(token, options) {
  if (!token.expected) return null;
  const shaped = shape(token.expected, options);
  return { ...shaped, own: shaped.probability(token.logit, token.rank) };
}
