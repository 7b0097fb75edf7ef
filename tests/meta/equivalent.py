"""Mutants that compute the same function, each with the reason why no input can tell the difference (see mutate.py)."""

PROOFS: dict[str, list[str]] = {
    "a value that `where` throws away": [
        "ops.py: _power_by_x: 1  ->  2",
        "formulas.py: elu: 0  ->  1",
        "formulas.py: elu: 0  ->  1 (place 2)",
    ],
    "_share takes x == y first": [
        "ops.py: maximum: x < y  ->  x <= y",
        "ops.py: maximum: y < x  ->  y <= x",
        "ops.py: minimum: x < y  ->  x <= y",
        "ops.py: minimum: y < x  ->  y <= x",
    ],
    "zip(strict=): there is always one entry per axis, or part, in each": [
        "derived.py: scatter: False  ->  True",
        "derived.py: split: True  ->  False",
        "derived.py: tile: True  ->  False",
        "derived.py: tile: True  ->  False (place 2)",
        "derived.py: _parse_einsum: True  ->  False",
        "derived.py: _parse_einsum: True  ->  False (place 2)",
        "derived.py: _parse_einsum: True  ->  False (place 3)",
        "derived.py: _parse_einsum: True  ->  False (place 4)",
        "derived.py: _parse_einsum: True  ->  False (place 5)",
        "autograd.py: grad: True  ->  False",
        "primitive.py: Primitive.vjp: True  ->  False",
        "kernels/cpu/losses.py: linear_cross_entropy: True  ->  False",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: True  ->  False",
        "kernels/cpu/blocks.py: products: True  ->  False",
        "kernels/cpu/attention.py: attention_vjp: True  ->  False",
        "kernels/cpu/attention.py: attention_vjp: True  ->  False (place 2)",
    ],
    "at 0 both branches are 1 / 2": [
        "ops.py: _sigmoid: x >= 0  ->  x > 0",
    ],
    "the shift of a row without a finite maximum: it cancels, or the sum is 0 or inf": [
        "ops.py: _logsumexp: 0  ->  1",
        "formulas.py: attention: 0  ->  1",
        "kernels/cpu/numba_impl.py: softmax: 0  ->  1 (place 3)",
        "kernels/cpu/numpy_impl.py: softmax: 0  ->  1 (place 2)",
    ],
    "without a key there is no score to shift": [
        "formulas.py: _attention_weights: 0  ->  1",
    ],
    "matmul works on a copy of an operand whose memory is that of the result": [
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: 0  ->  1 (place 2)",
    ],
    "a reshape to the shape that it has": [
        "ops.py: expand_like: not keepdims and axis is not None and shape  ->  axis is not None and shape",
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
        "ops.py: reshape: shape if isinstance(shape, tuple) else tuple(shape) if isinstance(shape, list) else (shape,)  ->  shape",
    ],
    "concatenate raises, whatever the axis": [
        "derived.py: stack: 0  ->  1 (place 2)",
    ],
    "many small products added up are the one large product": [
        "ops.py: _matmul_by_y: 2  ->  1",
        "ops.py: _matmul_by_y: if len(y_shape) == 2 and x.ndim > 2  ->  if False",
        "ops.py: _matmul_by_y: len(y_shape) == 2  ->  len(y_shape) != len(y_shape)",
        "ops.py: _matmul_by_y: x.ndim > 2  ->  x.ndim != x.ndim",
        "ops.py: _matmul_by_y: 2  ->  3 (place 2)",
    ],
    "only its dtype or shape is asked for": [
        "ops.py: _matmul_by_y: g  ->  0 * g + 1 (place 3)",
        "primitive.py: unbroadcast: g  ->  0 * g + 1",
        "primitive.py: unbroadcast: g  ->  0 * g + 1 (place 3)",
        "primitive.py: unbroadcast: g  ->  0 * g + 1 (place 4)",
        "primitive.py: unbroadcast: g  ->  0 * g + 1 (place 7)",
        "kernels/cpu/attention.py: attention_vjp: g  ->  0 * g + 1",
        "kernels/cpu/attention.py: heads_attention_vjp: g  ->  0 * g + 1 (place 2)",
        "ops.py: _share_among: g  ->  0 * g + 1",
        "kernels/cpu/layers.py: embedding_vjp: g  ->  0 * g + 1",
        "kernels/cpu/layers.py: layer_norm_vjp: g  ->  0 * g + 1 (place 4)",
    ],
    "NumPy takes any negative length for the one to work out": [
        "kernels/cpu/layers.py: embedding_vjp: 1  ->  2",
        "kernels/cpu/losses.py: cross_entropy: 1  ->  2",
        "kernels/cpu/losses.py: linear_cross_entropy: 1  ->  2 (place 2)",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: 1  ->  2",
        "kernels/cpu/layers.py: apply_dropout_mask: 1  ->  2 (place 2)",
        "kernels/cpu/layers.py: apply_dropout_mask: 1  ->  2 (place 4)",
        "kernels/cpu/layers.py: gelu: 1  ->  2",
        "kernels/cpu/layers.py: gelu_vjp: 1  ->  2",
    ],
    "to add to zeros is to set, where no place comes twice": [
        "ops.py: _scatter_add: if _has_arrays(index)  ->  if True",
        "ops.py: _has_arrays: is_array(i) and i.dtype.kind in 'iu'  ->  is_array(i)",
    ],
    "a gradient that is not needed is computed, and thrown away": [
        "kernels/cpu/attention.py: _write_gradients: if dq is None and dk is None and (dmask is None)  ->  if False",
        "kernels/cpu/layers.py: layer_norm_vjp: np.empty(x.shape[-1], x.dtype) if need else None  ->  np.empty(x.shape[-1], x.dtype)",
    ],
    "scratch memory under another number, which nothing else uses there": [
        "kernels/cpu/attention.py: attention: 0  ->  1 (place 3)",
        "kernels/cpu/numpy_impl.py: gelu_vjp: 1  ->  2 (place 2)",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: 1  ->  2 (place 3)",
    ],
    "how much at once is a matter of time: test_cpu_kernels.py holds that no number changes, with other sizes": [
        "kernels/cpu/attention.py: TILE_SCORES: 1 << 18  ->  18",
        "kernels/cpu/attention.py: FEW_SCORES: 1 << 12  ->  12",
        "kernels/cpu/attention.py: FEW_SCORES: 1  ->  2",
        "kernels/cpu/blocks.py: COMPILED: 18  ->  19",
        "kernels/cpu/blocks.py: product: a.shape[0] < FEW_ROWS  ->  a.shape[0] <= FEW_ROWS",
        "kernels/cpu/blocks.py: product: a.shape[0] >= FEW_ROWS  ->  a.shape[0] == a.shape[0]",
        "kernels/cpu/blocks.py: product: a.shape[0] >= FEW_ROWS  ->  a.shape[0] != a.shape[0]",
        "kernels/cpu/blocks.py: products: sum([matmul_time(a, b) for a, b in pairs]) + sum([x.size / 4 for x, _ in sums])  ->  sum([matmul_time(a, b) for a, b in pairs])",
        "kernels/cpu/blocks.py: products: sum([matmul_time(a, b) for a, b in pairs]) + sum([x.size / 4 for x, _ in sums])  ->  sum([x.size / 4 for x, _ in sums])",
        "kernels/cpu/blocks.py: products: x.size / 4  ->  x.size * 4",
        "kernels/cpu/choose_impl.py: MIN_SIZE: 1 << 14  ->  14",
        "kernels/cpu/losses.py: _class_slices: 2 * blocks.BLOCK // max(1, N)  ->  2 * blocks.BLOCK",
        "kernels/cpu/losses.py: _class_slices: 2 * blocks.BLOCK // max(1, N)  ->  2 * blocks.BLOCK * max(1, N)",
        "kernels/cpu/losses.py: _class_slices: 2  ->  1",
        "kernels/cpu/losses.py: _class_slices: 2 * MIN_CLASSES  ->  MIN_CLASSES",
        "kernels/cpu/blocks.py: BLOCK: 1 << 18  ->  1",
        "kernels/cpu/blocks.py: BLOCK: 1 << 18  ->  18",
        "kernels/cpu/blocks.py: BLOCK: 1  ->  2",
        "kernels/cpu/blocks.py: BLOCK: 18  ->  19",
        "kernels/cpu/blocks.py: BLOCK: 18  ->  17",
        "kernels/cpu/blocks.py: products: 1  ->  2 (place 3)",
        "kernels/cpu/blocks.py: products: 64  ->  65 (place 7)",
    ],
    "at p = 1 nothing is kept: 0, whatever it is multiplied with": [
        "formulas.py: attention: 0.0  ->  1.0 (place 2)",
    ],
    "at p = 0 everything is kept, and nothing drawn": [
        "formulas.py: scaled_dot_product_attention: keep_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator) if dropout_p else None  ->  keep_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator)",
        "formulas.py: multi_head_attention: keep_mask(qkv, (len(qkv), n_head, *[qkv.shape[1]] * 2), dropout_p, generator) if dropout_p else None  ->  keep_mask(qkv, (len(qkv), n_head, *[qkv.shape[1]] * 2), dropout_p, generator)",
    ],
    "along the first axis anyway": [
        "kernels/cpu/numpy_impl.py: add_rows: np.add.reduceat(x[order], starts, axis=0)  ->  np.add.reduceat(x[order], starts)",
    ],
    "rows in the shape that they have already": [
        "kernels/cpu/blocks.py: as_rows: x.ndim == 2  ->  x.ndim != x.ndim",
    ],
    "the square is the same": [
        "formulas.py: mse_loss: x - y  ->  y - x",
        "derived.py: var: x - mean(x, axis=axis, keepdims=True)  ->  mean(x, axis=axis, keepdims=True) - x",
    ],
    "nothing is appended": [
        "derived.py: prod: x.shape[0] % 2  ->  x.shape[0]",
        "derived.py: prod: x.shape[0] % 2  ->  2",
        "derived.py: prod: x.shape[0] % 2  ->  x.shape[0] // 2",
        "derived.py: cumprod: step < x.shape[axis]  ->  step <= x.shape[axis]",
        "derived.py: prod: concatenate([pairs, x[2 * half:]]) if x.shape[0] % 2 else pairs  ->  concatenate([pairs, x[2 * half:]])",
    ],
    "times 1, plus 0": [
        "formulas.py: _nll: -picked if weight is None else -picked * scale  ->  -picked * scale",
        "formulas.py: cross_entropy: targets * (1 - label_smoothing) + label_smoothing / C if label_smoothing else targets  ->  targets * (1 - label_smoothing) + label_smoothing / C",
    ],
    "worked out again at each call instead of once": [
        "primitive.py: Primitive._needed: if not self.variadic  ->  if False",
        "primitive.py: Primitive._needed: self._needs[mask] = needed  ->  pass",
    ],
    "any set of keywords includes the empty one": [
        "primitive.py: Primitive.__call__: meta and (not self.keywords.keys() >= meta.keys())  ->  not self.keywords.keys() >= meta.keys()",
    ],
    "f(*xs, **{}) is f(*xs)": [
        "primitive.py: Primitive.__call__: self.forward(*raw, **meta) if meta else self.forward(*raw)  ->  self.forward(*raw, **meta)",
    ],
    "a version only ever says that it is another": [
        "primitive.py: Primitive.__call__: 0  ->  1 (place 3)",
        "primitive.py: _version_of: 0  ->  1",
    ],
    "memory of its own is told from that of the argument there as well": [
        "primitive.py: _version_of: out.base is not None and (out.base is memory or out.base is memory.base)  ->  out.base is memory or out.base is memory.base",
    ],
    "a sum over no axis, or over an axis of one element, changes nothing": [
        "primitive.py: unbroadcast: if g.shape == shape  ->  if False",
        "primitive.py: unbroadcast: g.shape == shape  ->  g.shape != g.shape",
        "primitive.py: unbroadcast: n == 1 and g.shape[i + extra] != 1  ->  n == 1",
        "primitive.py: unbroadcast: g.shape[i + extra] != 1  ->  g.shape[i + extra] == g.shape[i + extra]",
    ],
    "the reshape gives the axes back": [
        "primitive.py: unbroadcast: g.sum(axis=(*range(extra), *stretched), keepdims=True)  ->  g.sum(axis=(*range(extra), *stretched))",
        "primitive.py: unbroadcast: True  ->  False",
    ],
    "wherever an empty axis is cut, the parts are empty": [
        "derived.py: roll: 0  ->  1 (place 2)",
        "derived.py: split: 0  ->  1 (place 2)",
    ],
    "a term without ... has an axis a label, or is an error": [
        "derived.py: _parse_einsum: x.ndim - len(t.replace('...', '')) if '...' in t else 0  ->  x.ndim - len(t.replace('...', ''))",
    ],
    "there is always a term": [
        "derived.py: _parse_einsum: 0  ->  1 (place 2)",
    ],
    "... stands for no axis": [
        "derived.py: _parse_einsum: '...' if widest else ''  ->  '...'",
    ],
    "whatever is 0 / 1 is 0 / 2": [
        "kernels/cpu/numpy_impl.py: softmax: 1  ->  2 (place 2)",
        "kernels/cpu/numba_impl.py: softmax: 1  ->  2 (place 2)",
        "kernels/cpu/numba_impl.py: softmax: F(0) * share  ->  F(0) / share",
        "formulas.py: attention: 1  ->  2 (place 6)",
    ],
    "all that far out is 0, or inf; at the bound itself the two branches meet": [
        "kernels/cpu/numba_impl.py: exp: x < F(-104)  ->  x <= F(-104)",
        "kernels/cpu/numba_impl.py: exp: x > F(89)  ->  x >= F(89)",
        "kernels/cpu/numba_impl.py: exp: n > F(-127)  ->  n >= F(-127)",
        "kernels/cpu/numba_impl.py: exp: 104  ->  105",
        "kernels/cpu/numba_impl.py: exp: 104  ->  103",
        "kernels/cpu/numba_impl.py: exp: 104  ->  105 (place 2)",
        "kernels/cpu/numba_impl.py: exp: 104  ->  103 (place 2)",
        "kernels/cpu/numba_impl.py: exp: 127  ->  128 (place 2)",
    ],
    "nothing is pending there": [
        "kernels/cpu/numpy_impl.py: softmax: if seen < s  ->  if True",
        "kernels/cpu/numpy_impl.py: softmax: seen < s  ->  seen <= s",
        "kernels/cpu/numpy_impl.py: softmax: seen < s  ->  seen == seen",
    ],
    "its content is never read": [
        "kernels/cpu/attention.py: attention: 0  ->  1 (place 2)",
    ],
    "what is right for one position is right where q and k broadcast; only v must have no more axes than they": [
        "kernels/cpu/attention.py: attention: -2  ->  2 (place 3)",
        "kernels/cpu/attention.py: attention: 2  ->  3 (place 3)",
        "kernels/cpu/attention.py: attention: 2  ->  1 (place 3)",
        "kernels/cpu/attention.py: attention: -2  ->  2 (place 4)",
        "kernels/cpu/attention.py: attention: 2  ->  3 (place 4)",
        "kernels/cpu/attention.py: attention: 2  ->  1 (place 4)",
        "kernels/cpu/attention.py: attention: 2  ->  1 (place 5)",
    ],
    "what is computed for many rows, or positions, is computed for one as well": [
        "kernels/cpu/attention.py: attention: T == 1  ->  T != T",
        "kernels/cpu/attention.py: attention: 0  ->  1",
        "kernels/cpu/attention.py: attention: 3  ->  4",
        "kernels/cpu/attention.py: attention: 3  ->  2",
        "kernels/cpu/layers.py: layer_norm: if len(rows) == 1  ->  if False",
        "kernels/cpu/layers.py: layer_norm: len(rows) == 1  ->  len(rows) != len(rows)",
    ],
    "where one thread ends the next begins: wherever that is, each row is computed once": [
        "kernels/cpu/blocks.py: products: 64  ->  63",
        "kernels/cpu/blocks.py: products: 64  ->  65 (place 2)",
        "kernels/cpu/blocks.py: products: 64  ->  63 (place 3)",
        "kernels/cpu/blocks.py: products: 64  ->  65 (place 4)",
    ],
    "the same rows, taken out one by one": [
        "kernels/cpu/losses.py: linear_cross_entropy: if not valid.all()  ->  if True",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: if not every  ->  if True",
        "kernels/cpu/losses.py: linear_cross_entropy_vjp: if not every  ->  if True (place 2)",
    ],
    "of two axes, the last is axis 1": [
        "kernels/cpu/losses.py: cross_entropy: -1  ->  1 (place 2)",
    ],
    "of four axes, the last but one is axis 2": [
        "kernels/cpu/attention.py: attention: -2  ->  2 (place 8)",
    ],
    "numba_impl_for looks at the size itself": [
        "kernels/cpu/choose_impl.py: choose_impl: numpy_impl if x.size < MIN_SIZE else numba_impl_for(x, *others) or numpy_impl  ->  numba_impl_for(x, *others) or numpy_impl",
    ],
    "only whether a version changed counts, not where it began nor how far it is": [
        "autograd.py: Variable.__init__: 0  ->  1",
    ],
    "in_float32 looks at the dtypes itself, and returns None where no array is narrow": [
        "primitive.py: Primitive.__call__: if size == 2  ->  if True",
        "primitive.py: Primitive.__call__: size == 2  ->  size == size",
    ],
    "a check more, which only a result of an unsupported dtype fails: no op makes one of Tensors alone": [
        "primitive.py: Primitive.__call__: variables += 1  ->  variables -= 1",
    ],
    "an ndarray is of a supported type, and has its itemsize: _itemsize finds the same": [
        "primitive.py: Primitive.__call__: if type(a) is ndarray  ->  if False",
    ],
    "an array of its own memory that is no argument gets a version of its own from _version_of too": [
        "primitive.py: Primitive.wrap: [0] if out.base is None and out is not raw[0] else _version_of(out, args[0])  ->  _version_of(out, args[0])",
    ],
    "float32 is a floating dtype": [
        "primitive.py: Primitive.wrap: dtype is not float32 and (not is_floating(dtype))  ->  not is_floating(dtype)",
    ],
    "the first node has order 0: all nodes are above -1, and above -2": [
        "autograd.py: _paths: 1  ->  2",
        "autograd.py: _paths: 1  ->  2 (place 2)",
    ],
    "from which size on a result is computed again is a matter of time: test_recompute.py holds that no number changes": [
        "accelerate/dispatch.py: RECOMPUTE_SIZE: 1 << 19  ->  19",
        "accelerate/dispatch.py: RECOMPUTE_SIZE: 19  ->  18",
        "accelerate/dispatch.py: KernelOp.wrap: raw[i].size > RECOMPUTE_SIZE  ->  raw[i].size >= RECOMPUTE_SIZE",
    ],
    "bind gives back what is bound already": [
        "accelerate/dispatch.py: KernelOp.__call__: meta and (not self.keywords.keys() >= meta.keys())  ->  meta",
    ],
    "arrays of the whole shape index as those do that broadcast to it": [
        "derived.py: scatter: True  ->  False",
    ],
    "the last axis is the default of partition": [
        "ops.py: _indices_of_largest: xp(x).partition(x, x.shape[-1] - k, axis=-1)  ->  xp(x).partition(x, x.shape[-1] - k)",
    ],
}
EQUIVALENT = {key: proof for proof, keys in PROOFS.items() for key in keys}
