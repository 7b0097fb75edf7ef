"""Mutants that compute the same function, each with the reason why no input can tell the difference (see mutate.py)."""

_SMOOTH = "targets * (1 - label_smoothing) + label_smoothing / C"
_KEEP = "keep_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator)"
_KEEP_OF_HEADS = "keep_mask(qkv, (len(qkv), n_head, *[qkv.shape[1]] * 2), dropout_p, generator)"
_ALONE = "len([None for _, other in pieces if other is piece or other.base is piece])"
PROOFS: dict[str, list[str]] = {
    "a value that `where` throws away": [
        "ops.py: _root: 1  ->  2",
        "ops.py: _power_by_x: 1  ->  2",
    ],
    "_share takes x == y first": [
        "ops.py: maximum: x < y  ->  x <= y",
        "ops.py: maximum: y < x  ->  y <= x",
        "ops.py: minimum: x < y  ->  x <= y",
        "ops.py: minimum: y < x  ->  y <= x",
    ],
    "zip(strict=): there is always one entry per axis, or part, in each": [
        "ops.py: _pad: True  ->  False",
        "derived.py: einsum: True  ->  False",
        "derived.py: split: True  ->  False",
        "derived.py: tile: True  ->  False",
        "derived.py: tile: True  ->  False (place 2)",
        *[
            f"derived.py: _parse_einsum: True  ->  False{place}"
            for place in ("", *(f" (place {n})" for n in (2, 3, 4, 5)))
        ],
        "autograd.py: grad: True  ->  False",
        "primitive.py: Primitive.vjp: True  ->  False",
        "primitive.py: Primitive._bind: True  ->  False",
        "primitive.py: Fused.pull: True  ->  False",
        "primitive.py: Fused._record: True  ->  False",
        "kernels/cpu/losses.py: linear_cross_entropy: True  ->  False",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: True  ->  False",
        "kernels/cpu/blocks.py: products: True  ->  False",
        "kernels/cpu/scores.py: attention_vjp: True  ->  False",
        "kernels/cpu/scores.py: attention_vjp: True  ->  False (place 2)",
    ],
    "only the order in which einsum multiplies: the same sum": [
        "ops.py: _einsum: len(xs) > 1  ->  len(xs) >= 1",
        "ops.py: _einsum: len(xs) > 1  ->  len(xs) == len(xs)",
        "ops.py: _einsum: len(xs) > 1  ->  len(xs) != len(xs)",
        "ops.py: _einsum: 1  ->  2",
    ],
    "at 0 both branches are 1 / 2": ["ops.py: _sigmoid: x >= 0  ->  x > 0"],
    "the shift of a row without a finite maximum: it cancels, or the sum is 0 or inf": [
        "ops.py: _logsumexp: 0  ->  1",
        "formulas.py: attention: 0  ->  1",
        "formulas.py: attention: -math.inf  ->  math.inf (place 2)",
        "kernels/cpu/scores.py: _of_one: 0  ->  1",
        "kernels/cpu/passes.py: exponentials: 0  ->  1",
        "kernels/cpu/loops.py: exponentials: 0  ->  1 (place 2)",
        "kernels/cpu/loops.py: softmax: 0  ->  1 (place 3)",
        "kernels/cpu/passes.py: softmax: 0  ->  1 (place 2)",
    ],
    "matmul works on a copy of an operand whose memory is that of the result": [
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: 0  ->  1 (place 2)",
        "kernels/cpu/scores.py: _dropped: 1  ->  2 (place 4)",
        "kernels/cpu/scores.py: _backward: 2  ->  3 (place 4)",
        "kernels/cpu/scores.py: _backward: 2  ->  1 (place 4)",
        "kernels/cpu/scores.py: _backward: 3  ->  2 (place 2)",
    ],
    "a reshape to the shape that it has": [
        "ops.py: spread: not keepdims and axis is not None and shape  ->  axis is not None and shape",
        "ops.py: _matmul_by_y: len(y_shape) == 2 and x.ndim > 2  ->  len(y_shape) == 2",
        "ops.py: _matmul_by_y: x.ndim > 2  ->  x.ndim >= 2",
        "ops.py: _matmul_by_y: x.ndim > 2  ->  x.ndim == x.ndim",
        "ops.py: _matmul_by_y: 2  ->  1 (place 2)",
    ],
    "an axis of length 1 in front broadcasts, and is summed away": [
        "ops.py: _matmul_by_y: x if x.ndim > 1 else expand_dims(x, 0)  ->  expand_dims(x, 0)",
        "ops.py: _matmul_by_y: x.ndim > 1  ->  x.ndim != x.ndim",
        "ops.py: _matmul_by_y: 1  ->  2",
    ],
    "NumPy's reshape takes a list or a number as it is": [
        "ops.py: reshape: shape if isinstance(shape, tuple) else tuple(shape) if isinstance(shape, list) else (shape,)"
        "  ->  shape",
    ],
    "concatenate raises, whatever the axis": ["derived.py: stack: 0  ->  1 (place 2)"],
    "many small products added up are the one large product": [
        "ops.py: _matmul_by_y: 2  ->  1",
        "ops.py: _matmul_by_y: if len(y_shape) == 2 and x.ndim > 2  ->  if False",
        "ops.py: _matmul_by_y: len(y_shape) == 2  ->  len(y_shape) != len(y_shape)",
        "ops.py: _matmul_by_y: x.ndim > 2  ->  x.ndim != x.ndim",
        "ops.py: _matmul_by_y: 2  ->  3 (place 2)",
    ],
    "only its dtype or shape is asked for": [
        "ops.py: _matmul_by_y: g  ->  0 * g + 1 (place 3)",
        "primitive.py: Primitive.pull: g  ->  0 * g + 1 (place 3)",
        "primitive.py: Fused.pull: g  ->  0 * g + 1 (place 3)",
        *[f"primitive.py: unbroadcast: g  ->  0 * g + 1{place}" for place in ("", " (place 3)", " (place 4)")],
        "kernels/cpu/scores.py: attention_vjp: g  ->  0 * g + 1",
        "kernels/cpu/scores.py: _backward: g  ->  0 * g + 1",
        "kernels/cpu/scores.py: heads_attention_vjp: g  ->  0 * g + 1 (place 2)",
        "kernels/cpu/scores.py: _backward: g  ->  0 * g + 1 (place 4)",
        "ops.py: _share_among: g  ->  0 * g + 1",
        "kernels/cpu/layers.py: embedding_vjp: g  ->  0 * g + 1",
        "kernels/cpu/layers.py: layer_norm_vjp: g  ->  0 * g + 1 (place 4)",
        "kernels/cpu/passes.py: normalize_vjp: g  ->  0 * g + 1",
        "kernels/cpu/passes.py: normalize_vjp: g  ->  0 * g + 1 (place 2)",
    ],
    "NumPy takes any negative length for the one to work out": [
        "kernels/cpu/layers.py: embedding_vjp: 1  ->  2",
        "kernels/cpu/losses.py: cross_entropy: 1  ->  2",
        "kernels/cpu/losses.py: linear_cross_entropy: 1  ->  2 (place 2)",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: 1  ->  2",
        "kernels/cpu/layers.py: _norm_of_one: 1  ->  2",
        "kernels/cpu/layers.py: apply_dropout_mask: 1  ->  2 (place 2)",
        "kernels/cpu/layers.py: apply_dropout_mask: 1  ->  2 (place 4)",
        "kernels/cpu/scores.py: _of_one: 1  ->  2 (place 5)",
        "kernels/cpu/layers.py: gelu: 1  ->  2",
        "kernels/cpu/layers.py: gelu_vjp: 1  ->  2",
    ],
    "NumPy's default": [
        "kernels/cpu/layers.py: embedding_vjp: np.add.reduceat(as_rows(g)[order], starts, axis=0)"
        "  ->  np.add.reduceat(as_rows(g)[order], starts)",
    ],
    "to add to zeros is to set, where no place comes twice": [
        "ops.py: _scatter_add: if _has_arrays(index)  ->  if True",
        "ops.py: _has_arrays: is_array(i) and i.dtype.kind in 'iu'  ->  is_array(i)",
    ],
    "an estimate of time, which only decides whether work is split": [
        *[
            f"kernels/cpu/scores.py: _over: {change}"
            for change in ("pieces[-1][-1].at.stop if pieces and pieces[-1] else 0  ->  0", "0  ->  1")
        ],
        "kernels/cpu/scores.py: attention: -1  ->  1 (place 7)",
        "kernels/cpu/scores.py: attention: 1  ->  2 (place 9)",
        "kernels/cpu/scores.py: _backward: -1  ->  1 (place 6)",
        "kernels/cpu/scores.py: _backward: 1  ->  2 (place 6)",
    ],
    "a gradient that nobody needs is computed, and thrown away": [
        "kernels/cpu/scores.py: attention_vjp: _beside(x, lead, *x.shape[-2:]) if need else None"
        "  ->  _beside(x, lead, *x.shape[-2:])",
        "kernels/cpu/scores.py: attention_vjp: np.zeros((*lead, T, S), q.dtype) if needs[4] else None"
        "  ->  np.zeros((*lead, T, S), q.dtype)",
        "kernels/cpu/scores.py: _backward: if into_q is None and into_k is None and (into_mask is None)  ->  if False",
        "kernels/cpu/layers.py: linear_vjp: g if needs[2] else None  ->  g",
        "kernels/cpu/layers.py: projections_vjp: 4  ->  5",
        "kernels/cpu/layers.py: projections_vjp: 4  ->  3 (place 2)",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: np.empty(weight.shape, x.dtype) if needs[1] else None"
        "  ->  np.empty(weight.shape, x.dtype)",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: np.zeros(rows.shape, x.dtype) if needs[0] else None"
        "  ->  np.zeros(rows.shape, x.dtype)",
        "kernels/cpu/layers.py: layer_norm_vjp: np.empty(rows.shape, x.dtype) if needs[0] else None"
        "  ->  np.empty(rows.shape, x.dtype)",
        "kernels/cpu/layers.py: layer_norm_vjp: np.empty(x.shape[-1], x.dtype) if need else None"
        "  ->  np.empty(x.shape[-1], x.dtype)",
        "kernels/cpu/passes.py: normalize_vjp: if dweight is not None  ->  if True",
        "kernels/cpu/passes.py: normalize_vjp: if dbias is not None  ->  if True",
    ],
    "scratch memory under another number, which nothing else uses there": [
        "kernels/cpu/scores.py: attention: 0  ->  1 (place 3)",
        "kernels/cpu/scores.py: _backward: 0  ->  1",
        "kernels/cpu/scores.py: _backward: 3  ->  4 (place 2)",
        "kernels/cpu/passes.py: normalize_vjp: 1  ->  2 (place 2)",
        "kernels/cpu/passes.py: gelu_vjp: 1  ->  2 (place 2)",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: 1  ->  2 (place 3)",
    ],
    "how much at once is a matter of time: test_kernels.py holds that no number changes, with other sizes": [
        "kernels/cpu/losses.py: CLASSES: 64  ->  65",
        "kernels/cpu/losses.py: CLASSES: 64  ->  63",
        *[
            f"kernels/cpu/{name}: {change}"
            for name in ("blocks.py: BLOCK", "scores.py: SCORES")
            for change in ("1 << 18  ->  1", "1 << 18  ->  18", "1  ->  2", "18  ->  19", "18  ->  17")
        ],
        "kernels/cpu/scores.py: PIECES: 2  ->  1",
        "kernels/cpu/blocks.py: products: 1  ->  2 (place 3)",
        "kernels/cpu/blocks.py: products: 64  ->  65 (place 7)",
        "kernels/cpu/scores.py: POSITIONS: 64  ->  65",
        "kernels/cpu/scores.py: POSITIONS: 64  ->  63",
    ],
    "at p = 1 nothing is kept: 0, whatever it is multiplied with": [
        "formulas.py: attention: 0.0  ->  1.0 (place 2)",
        "kernels/cpu/scores.py: _dropped: 0.0  ->  1.0",
    ],
    "at p = 0 everything is kept, and nothing drawn": [
        f"{file}: scaled_dot_product_attention: {_KEEP} if dropout_p else None  ->  {_KEEP}"
        for file in ("formulas.py", "functional.py")
    ]
    + [
        f"{file}: multi_head_attention: {_KEEP_OF_HEADS} if dropout_p else None  ->  {_KEEP_OF_HEADS}"
        for file in ("formulas.py", "functional.py")
    ],
    "along the first axis anyway": [
        "kernels/cpu/passes.py: add_rows: np.add.reduceat(x[order], starts, axis=0)"
        "  ->  np.add.reduceat(x[order], starts)",
    ],
    "rows in the shape that they have already": [
        "kernels/cpu/blocks.py: as_rows: x if x.ndim == 2 else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))"
        "  ->  x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))",
        "kernels/cpu/blocks.py: as_rows: x.ndim == 2  ->  x.ndim != x.ndim",
    ],
    "without keys there is nothing to shift": ["formulas.py: attention: 0  ->  1 (place 2)"],
    "the square is the same": [
        "formulas.py: mse_loss: x - y  ->  y - x",
        "derived.py: var: x - mean(x, axis=axis, keepdims=True)  ->  mean(x, axis=axis, keepdims=True) - x",
    ],
    "nothing is appended": [
        "derived.py: prod: x.shape[0] % 2  ->  x.shape[0]",
        "derived.py: prod: x.shape[0] % 2  ->  2",
        "derived.py: prod: x.shape[0] % 2  ->  x.shape[0] // 2",
        "derived.py: cumprod: step < x.shape[axis]  ->  step <= x.shape[axis]",
        "derived.py: prod: concatenate([pairs, x[2 * half:]]) if x.shape[0] % 2 else pairs"
        "  ->  concatenate([pairs, x[2 * half:]])",
    ],
    "times 1, plus 0": [
        "formulas.py: cross_entropy: -picked if weight is None else -picked * scale  ->  -picked * scale",
        f"formulas.py: cross_entropy: {_SMOOTH} if label_smoothing else targets  ->  {_SMOOTH}",
    ],
    "an array of the library is what asarray makes of it": [
        "primitive.py: Primitive.__call__: if isinstance(out, Scalar)  ->  if True",
        "formulas.py: keep_mask: keep if isinstance(raw, type(keep)) else xp(raw).asarray(keep)"
        "  ->  xp(raw).asarray(keep)",
    ],
    "a Tensor of booleans masks as its array does": [
        "formulas.py: attention: mask.data if isinstance(mask, Variable) else mask  ->  mask",
    ],
    "worked out again at each call instead of once": [
        "primitive.py: Primitive._record: self._needs.get(mask) or self._needed(mask, len(args))"
        "  ->  self._needed(mask, len(args))",
        "primitive.py: Primitive._needed: if not self.variadic  ->  if False",
        "primitive.py: Primitive._needed: self._needs[mask] = needed  ->  pass",
    ],
    "any set of keywords includes the empty one": [
        f"primitive.py: {op}.__call__: meta and (not self.keywords.keys() >= meta.keys())"
        "  ->  not self.keywords.keys() >= meta.keys()"
        for op in ("Primitive", "Fused")
    ],
    "to bind what is in its place already changes nothing": [
        "primitive.py: Fused.__call__: if len(args) < self.required or "
        "(meta and (not self.keywords.keys() >= meta.keys()))  ->  if True",
        "primitive.py: Fused.__call__: len(args) < self.required  ->  len(args) <= self.required",
        "primitive.py: Fused.__call__: len(args) < self.required  ->  len(args) == len(args)",
        *[
            f"primitive.py: Fused.__call__: meta and (not self.keywords.keys() >= meta.keys())  ->  {change}"
            for change in ("meta or not self.keywords.keys() >= meta.keys()", "meta")
        ],
        "primitive.py: Fused.__call__: self.keywords.keys() >= meta.keys()  ->  self.keywords.keys() > meta.keys()",
        "primitive.py: Fused.__call__: self.keywords.keys() >= meta.keys()"
        "  ->  self.keywords.keys() != self.keywords.keys()",
    ],
    "f(*xs, **{}) is f(*xs)": [
        "primitive.py: Primitive.__call__: self.forward(*raw, **meta) if meta else self.forward(*raw)"
        "  ->  self.forward(*raw, **meta)",
    ],
    "a version only ever says that it is another": [
        "primitive.py: Primitive.__call__: 0  ->  1 (place 3)",
        "primitive.py: _version_of: 0  ->  1",
    ],
    "memory of its own is told from that of the argument there as well": [
        "primitive.py: Primitive.__call__: [0] if out.base is None and out is not raw[0] else _version_of(out, args[0])"
        "  ->  _version_of(out, args[0])",
        "primitive.py: _version_of: out.base is not None and (out.base is memory or out.base is memory.base)"
        "  ->  out.base is memory or out.base is memory.base",
    ],
    "a sum over no axis, or over an axis of one element, changes nothing": [
        "primitive.py: unbroadcast: if g.shape == shape  ->  if False",
        "primitive.py: unbroadcast: g.shape == shape  ->  g.shape != g.shape",
        "primitive.py: unbroadcast: n == 1 and g.shape[i + extra] != 1  ->  n == 1",
        "primitive.py: unbroadcast: g.shape[i + extra] != 1  ->  g.shape[i + extra] == g.shape[i + extra]",
    ],
    "the reshape gives the axes back": [
        "primitive.py: unbroadcast: g.sum(axis=(*range(extra), *stretched), keepdims=True)"
        "  ->  g.sum(axis=(*range(extra), *stretched))",
        "primitive.py: unbroadcast: True  ->  False",
    ],
    "a Tensor has its array's shape and dtype": [
        "primitive.py: Primitive._fit: parent if isinstance(parent, Node) else parent.data  ->  parent",
    ],
    "a rule that is None is never pulled": [
        "primitive.py: Primitive.vjp: rule and _asking(rule, at)  ->  _asking(rule, at)",
    ],
    "wherever an empty axis is cut, the parts are empty": [
        "derived.py: roll: 0  ->  1 (place 2)",
        "derived.py: split: 0  ->  1 (place 2)",
    ],
    "a term without ... has an axis a label, or is an error": [
        "derived.py: _parse_einsum: x.ndim - len(t.replace('...', '')) if '...' in t else 0"
        "  ->  x.ndim - len(t.replace('...', ''))",
    ],
    "there is always a term": ["derived.py: _parse_einsum: 0  ->  1 (place 2)"],
    "... stands for no axis": ["derived.py: _parse_einsum: '...' if widest else ''  ->  '...'"],
    "no index is None": ["formulas.py: check_indices: if ignore_index is not None  ->  if True"],
    "nothing is smoothed: the argument is only checked, and allowed": [
        "formulas.py: check_cross_entropy: 0.0  ->  1.0",
    ],
    "whatever is 0 / 1 is 0 / 2": [
        "kernels/cpu/passes.py: softmax: 1  ->  2 (place 2)",
        "kernels/cpu/loops.py: softmax: 1  ->  2 (place 2)",
        "kernels/cpu/loops.py: softmax: F(0) * share  ->  F(0) / share",
        "formulas.py: attention: 1  ->  2 (place 6)",
        "kernels/cpu/scores.py: _of_one: 1  ->  2 (place 4)",
    ],
    "all that far out is 0, or inf; at the bound itself the two branches meet": [
        f"kernels/cpu/loops.py: exp: {change}"
        for change in (
            "x < F(-104)  ->  x <= F(-104)",
            "x > F(89)  ->  x >= F(89)",
            "n > F(-127)  ->  n >= F(-127)",
            "104  ->  105",
            "104  ->  103",
            "104  ->  105 (place 2)",
            "104  ->  103 (place 2)",
            "127  ->  128 (place 2)",
        )
    ],
    "who computes small arrays: test_loops.py holds that both say the same": [
        f"kernels/cpu/steps.py: LEAST: {change}"
        for change in ("14  ->  15", "14  ->  13", "1  ->  2", "1 << 14  ->  14")
    ],
    "nothing is pending there": [
        f"kernels/cpu/passes.py: softmax: {change}"
        for change in ("if seen < s  ->  if True", "seen < s  ->  seen <= s", "seen < s  ->  seen == seen")
    ],
    "what is replaced is chosen once more: nothing, where all is finite": [
        "kernels/cpu/passes.py: softmax: if not np.isfinite(top).all()  ->  if True",
        "kernels/cpu/passes.py: softmax: np.isfinite(top)  ->  np.isnan(top)",
        "kernels/cpu/scores.py: _of_one: if not finite  ->  if True",
        "kernels/cpu/scores.py: _of_one: if not finite  ->  if True (place 2)",
    ],
    "there is nothing in it that anybody reads": ["kernels/cpu/scores.py: attention: 0  ->  1 (place 2)"],
    "what is right for one position is right where q and k broadcast; only v must have no more axes than they": [
        f"kernels/cpu/scores.py: attention: {change}"
        for change in (
            *[f"{a}  ->  {b} (place {place})" for place in (3, 4) for a, b in ((-2, 2), (2, 3), (2, 1))],
            "2  ->  1 (place 5)",
        )
    ],
    "what is computed for many rows, or positions, is computed for one as well": [
        "kernels/cpu/scores.py: attention: if few and keep is None and (mask is None)  ->  if False",
        "kernels/cpu/scores.py: attention: T == 1  ->  T != T",
        "kernels/cpu/scores.py: attention: 0  ->  1",
        "kernels/cpu/scores.py: attention: 3  ->  4",
        "kernels/cpu/scores.py: attention: 3  ->  2",
        "kernels/cpu/layers.py: layer_norm: if len(rows) == 1  ->  if False",
        "kernels/cpu/layers.py: layer_norm: len(rows) == 1  ->  len(rows) != len(rows)",
    ],
    "of two rows, the second is never read": ["kernels/cpu/layers.py: _norm_of_one: 1  ->  2 (place 3)"],
    "by rows or by columns, it is the same product": [
        f"kernels/cpu/blocks.py: product: {change}"
        for change in (
            "if a.shape[0] >= 16  ->  if False",
            "a.shape[0] >= 16  ->  a.shape[0] > 16",
            "a.shape[0] >= 16  ->  a.shape[0] != a.shape[0]",
            "16  ->  17",
            "16  ->  15",
        )
    ],
    "where one thread ends the next begins: wherever that is, each row is computed once": [
        f"kernels/cpu/blocks.py: products: {change}"
        for change in (
            "if any((onednn.pays(a, b) for a, b in pairs))  ->  if True",
            "len(out) * min(max(0, at - 64 * i), 64) // 64  ->  len(out) * min(max(0, at - 64 * i), 64)",
            "len(out) * min(max(0, at - 64 * i), 64) // 64  ->  len(out) * min(max(0, at - 64 * i), 64) * 64",
            "64  ->  63",
            "64  ->  65 (place 2)",
            "64  ->  63 (place 3)",
            "64  ->  65 (place 4)",
            "at - 64 * i  ->  at",
            "64 * i  ->  i",
        )
    ],
    "a product of no rows writes nothing": [
        "kernels/cpu/blocks.py: products: if start < stop  ->  if True",
        "kernels/cpu/blocks.py: products: start < stop  ->  start <= stop",
        "kernels/cpu/blocks.py: products: start < stop  ->  start == start",
    ],
    "the same rows, taken out one by one": [
        "kernels/cpu/losses.py: linear_cross_entropy: if not valid.all()  ->  if True",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: if not every  ->  if True",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: if not every  ->  if True (place 2)",
    ],
    "of two axes, the last is axis 1": [
        "kernels/cpu/layers.py: total: -1  ->  1",
        "kernels/cpu/losses.py: cross_entropy: -1  ->  1 (place 2)",
    ],
    "of four axes, the last but one is axis 2": [
        "kernels/cpu/scores.py: attention: -2  ->  2 (place 8)",
        *[f"kernels/cpu/scores.py: _backward: -2  ->  2 (place {place})" for place in (4, 5, 6)],
    ],
    "added into a new array instead of in place: the same sum": [
        *[f"autograd.py: _walk: owned.add(parent)  ->  pass{place}" for place in ("", " (place 2)", " (place 3)")],
        "autograd.py: _walk: if parent in owned  ->  if False",
        "autograd.py: _walk: if not record  ->  if False",
        "autograd.py: _walk: if not record and _fresh(piece, g, node.saved, pieces)  ->  if False",
        "autograd.py: _walk: if not record and _fresh(piece, g, node.saved, pieces)  ->  if False (place 2)",
        "autograd.py: _fresh: if piece is g or piece.base is not None  ->  if True",
        "autograd.py: _fresh: if value is piece  ->  if True",
        f"autograd.py: _fresh: {_ALONE} == 1  ->  {_ALONE} != {_ALONE}",
        "autograd.py: _fresh: other is piece or other.base is piece  ->  other is piece and other.base is piece",
    ],
    "a copy of what is nobody else's": [
        "autograd.py: _own: piece if owned and is_array(piece) else xp(piece).array(piece)  ->  xp(piece).array(piece)",
    ],
    "only whether a version changed counts, not where it began nor how far it is": [
        "autograd.py: Variable.__init__: 0  ->  1",
        "autograd.py: Variable.backward: 1  ->  2",
    ],
    "another number below 0, where orders begin": [
        "autograd.py: _walk: 1  ->  2",
        "autograd.py: _walk: 1  ->  2 (place 2)",
    ],
    "the order of one": ["autograd.py: _walk: -root.order  ->  root.order"],
    "backend.add of NumPy's arrays is +": [
        "autograd.py: _walk: grads[parent] + piece if record else add(grads[parent], piece)  ->  grads[parent] + piece",
    ],
    "gradients of what was passed are kept to the end of the walk, and not returned": [
        "autograd.py: _walk: targets is None or node not in targets  ->  targets is None",
    ],
    "the oldest target is useful anyway": ["autograd.py: _leading_to: node.order > oldest  ->  node.order >= oldest"],
}
EQUIVALENT = {key: proof for proof, keys in PROOFS.items() for key in keys}
