"""Losses as modules, for code that keeps its loss beside its model: each `forward` is one function of `functional`."""

from typing import Any

from .. import functional as F
from ..errors.layers import check_reduction
from ..tensor import Tensor
from ..typing import ArrayLike
from .module import Module


class CrossEntropyLoss(Module):
    """F.cross_entropy with these options: logits (..., C), class indices (...) or probabilities (..., C) -> ()."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        check_reduction("CrossEntropyLoss", reduction)
        self.weight, self.ignore_index = weight, ignore_index
        self.reduction, self.label_smoothing = reduction, label_smoothing

    def forward(self, logits: ArrayLike, targets: Any) -> Tensor:
        """The loss: () or, with reduction "none", (...)."""
        return F.cross_entropy(
            logits, targets, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing, weight=self.weight,
        )  # fmt: skip


class NLLLoss(Module):
    """F.nll_loss with these options: log-probabilities (..., C), class indices (...) -> ()."""

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"):
        check_reduction("NLLLoss", reduction)
        self.weight, self.ignore_index, self.reduction = weight, ignore_index, reduction

    def forward(self, log_p: ArrayLike, targets: Any) -> Tensor:
        """The loss: () or, with reduction "none", (...)."""
        return F.nll_loss(
            log_p, targets, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )  # fmt: skip


class MSELoss(Module):
    """F.mse_loss: the mean of (x - y)**2; "sum" and "none" as there."""

    def __init__(self, reduction: str = "mean"):
        check_reduction("MSELoss", reduction)
        self.reduction = reduction

    def forward(self, x: ArrayLike, y: ArrayLike) -> Tensor:
        """The loss of two Tensors of one shape: () or, with reduction "none", that shape."""
        return F.mse_loss(x, y, self.reduction)


class BCEWithLogitsLoss(Module):
    """F.binary_cross_entropy_with_logits with these options: logits and targets of one shape -> ()."""

    def __init__(self, reduction: str = "mean", pos_weight: Tensor | None = None):
        check_reduction("BCEWithLogitsLoss", reduction)
        self.reduction, self.pos_weight = reduction, pos_weight

    def forward(self, logits: ArrayLike, targets: ArrayLike) -> Tensor:
        """The loss: () or, with reduction "none", the shape of the logits."""
        return F.binary_cross_entropy_with_logits(logits, targets, self.reduction, self.pos_weight)


class KLDivLoss(Module):
    """F.kl_div with these options: log-probabilities and probabilities of one shape -> ()."""

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        if reduction != "batchmean":
            check_reduction("KLDivLoss", reduction)
        self.reduction, self.log_target = reduction, log_target

    def forward(self, log_q: ArrayLike, p: ArrayLike) -> Tensor:
        """The divergence: () or, with reduction "none", the shape of the arguments."""
        return F.kl_div(log_q, p, self.reduction, self.log_target)
