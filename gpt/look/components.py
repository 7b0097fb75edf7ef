"""Principal components without a library of linear algebra: Lanczos' method, and powers of a small matrix."""

import tensorlite as tl
from tensorlite import Generator, Tensor

STEPS = 64  # vectors of the Krylov space
SQUARINGS = 40  # of the small matrix, which gives its power of 2^40


def principal_components(x: Tensor, k: int = 2) -> tuple[Tensor, list[float]]:
    """The coordinates of n points x (n, C) along their first `k` principal axes, (n, k), and each axis' share of the
    variance, from 0 to 1.

    An axis that does not exist (fewer points or columns, or no variance left) has coordinates and share 0. The sign of
    an axis is such that its largest coordinate is positive. The covariance is projected onto the space that Lanczos'
    method spans: exact where n or C is at most STEPS, otherwise accurate for axes whose variances differ (Golub and
    Van Loan, "Matrix computations", section 10.1).
    """
    x = x.astype(tl.float64)
    x = x - x.mean(axis=0)
    total = tl.square(x).sum().item()
    basis = krylov(x, STEPS)  # (m, C)
    if not len(basis):  # all points are the same
        return tl.zeros((len(x), k)), [0.0] * k
    y = x @ basis.T  # (n, m)
    axes, found = [], []
    small = y.T @ y  # (m, m)
    for _ in range(k):
        v = dominant(small)  # (m, 1)
        variance = (v.T @ small @ v).item()
        exists = variance > 1e-12 * total
        along = y @ v * (1.0 if exists else 0.0)  # (n, 1)
        axes.append(along * (-1.0 if along.max().item() < -along.min().item() else 1.0))
        found.append(variance / total if exists else 0.0)
        small = small - v @ v.T * variance
    return tl.concatenate(axes, axis=-1), found


def krylov(x: Tensor, steps: int) -> Tensor:
    """Orthonormal rows (m, C) that span q, A q, A^2 q, ... for A = x^T x and a random q; m <= steps."""
    q = tl.tensor(Generator(0).randn((1, x.shape[1])), x.dtype, x.device) @ x.T @ x  # in the space of the rows
    basis = q[:0]  # (0, C)
    for _ in range(min(steps, *x.shape)):
        size = tl.norm(q).item()
        for _ in range(2):  # once is not enough where little is left (Kahan's "twice is enough")
            q = q - q @ basis.T @ basis
        left = tl.norm(q).item()
        if left <= 1e-10 * size:
            break
        basis = tl.concatenate([basis, q / left])
        q = basis[-1:] @ x.T @ x
    return basis


def dominant(a: Tensor) -> Tensor:
    """The eigenvector (m, 1) of the largest eigenvalue of a symmetric matrix (m, m) without negative eigenvalues.

    a is squared again and again, until the others' share has vanished: a^(2^j) / norm -> v v^T.
    """
    for _ in range(SQUARINGS):
        a = a / (tl.norm(a) + 1e-300)
        a = a @ a
    j = a.diagonal().argmax().item()
    column = a[:, j : j + 1]
    return column / (tl.norm(column) + 1e-300)
