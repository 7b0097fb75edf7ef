"""Logits with infinities and nan, with what torch 2.13 gives for the cross-entropy of each."""

import math

INF, NAN = math.inf, math.nan

SPECIAL = [  # logits, target, and with torch 2.13 the loss and the gradient: nan in all of a row that has no softmax
    ([0, INF, 1], 0, NAN, [NAN] * 3),
    ([0, INF, 1], 1, NAN, [NAN] * 3),
    ([0, INF, INF], 1, NAN, [NAN] * 3),
    ([INF, INF, INF], 0, NAN, [NAN] * 3),
    ([INF, -INF, 0], 1, NAN, [NAN] * 3),
    ([INF, -INF, 0], 2, NAN, [NAN] * 3),
    ([-INF, -INF, -INF], 0, NAN, [NAN] * 3),
    ([NAN, 0, 1], 0, NAN, [NAN] * 3),
    ([NAN, 0, 1], 1, NAN, [NAN] * 3),
    ([0, -INF, 1], 1, INF, [1 / (1 + math.e), -1, math.e / (1 + math.e)]),
    ([0, -INF, 1], 0, math.log(1 + math.e), [-math.e / (1 + math.e), 0, math.e / (1 + math.e)]),
    ([-INF, 0, -INF], 1, 0, [0, 0, 0]),
]
