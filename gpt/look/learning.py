"""One step of training on one text, with everything on the way kept: loss, gradient, update, and the loss after it.

The text's loss is that of its next tokens or, for a classifier, that of its label (example.py).
A LearningSession has a copy of a model, which learns step by step; a step can be undone. `learn` does a single step.
The numbers are those of training (gpt.training.step) on a batch of this one text, without dropout.
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import tensorlite as tl
from tensorlite import Tensor, io, optim

from ..config import check_choice, check_number
from ..training import checkpoint
from ..training.settings import Settings
from .display import heat_map, log_shares, token_strip
from .example import Network, example, network, predict
from .gradient import PARTS, Forward, Gradients, norm, parts
from .loaded import LoadedModel

OPTIMIZERS = ("adamw", "sgd")
MOMENTS = ("fresh", "checkpoint")
FINE_TUNING = 5e-5  # the book's learning rate for fine-tuning GPT-2: the default for a model without training settings


@dataclass(frozen=True)
class Update:
    """How much a step changed one layer's parameters, weight and bias together."""

    layer: int | None  # the number of the block, from 0; None: not in a block
    part: str
    weight: float  # norm of the parameters before the step
    update: float  # norm of their change
    ratio: float | None  # update / weight; None where the parameters were all zero


@dataclass(frozen=True)
class Rule:
    """How the gradient becomes an update."""

    optimizer: str  # "adamw" or "sgd"
    lr: float
    betas: tuple[float, float] | None  # of AdamW
    weight_decay: float
    clip: float  # the largest norm of the gradient; 0: no limit
    count: int  # which step of the session it was, from 1
    moments: str  # where AdamW's averages of the gradient were from: "fresh", "checkpoint" or "continued"; SGD: ""


@dataclass(frozen=True)
class LearnStep:
    """One step of learning on a text of T tokens. Position t reads token t and predicts token t + 1.

    A classifier predicts one label: its `losses_before`, `losses_after`, `before` and `after` have one number each.
    """

    tokens: list[str]  # T
    rule: Rule
    loss_before: float  # nats, mean over the T - 1 positions
    loss_after: float
    losses_before: list[float]  # nats, at each position
    losses_after: list[float]
    before: list[float]  # the probability of the true next token at each position, or of the label
    after: list[float]
    gradient_norm: float  # of all parameters together
    gradient_scale: float  # the factor by which clipping shortened the gradient; 1: not at all
    gradients: Gradients
    updates: list[Update]
    labels: list[str]  # of a classifier, otherwise []
    label: str | None  # the one that it is to predict
    labels_before: list[float]  # the probability of each label
    labels_after: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """The step in four parts: loss before, gradient, update, loss and probabilities after."""
        rule = f"{self.rule.optimizer}, lr {self.rule.lr:g}, gradient norm {self.gradient_norm:.3g}"
        before, after, color = self._pictures()
        return "".join(
            [
                f"<div><b>Loss before: {self.loss_before:.4f} nats</b> ({color})",
                before,
                "<b>Gradient</b><br>",
                self.gradients._repr_html_(),
                f"<b>Update</b> ({escape(rule)})<br>",
                update_map(self.updates),
                f"<br><b>Loss after: {self.loss_after:.4f} nats</b>",
                after,
                "</div>",
            ]
        )

    def _pictures(self) -> tuple[str, str, str]:
        """What the model predicts before and after the step, and what the colors are."""
        if self.label is not None:
            titles = [f"{label}{' (to predict)' if label == self.label else ''}" for label in self.labels]
            before, after = (
                heat_map([[p] for p in found], titles, ["probability"], largest=1.0, cell=22, form="{:.1%}".format)
                for found in (self.labels_before, self.labels_after)
            )
            return before, after, "color: probability of each label"
        scale = max([*self.losses_before, *self.losses_after, 1e-9])
        notes = [f"{b:.3f} nats, p {p:.3%}" for b, p in zip(self.losses_before, self.before, strict=True)]
        later = [
            f"{a:.3f} nats, p {p:.3%} -> {q:.3%}"
            for a, p, q in zip(self.losses_after, self.before, self.after, strict=True)
        ]
        before, after = (
            token_strip(self.tokens, [None, *(x / scale for x in losses)], ["", *texts])
            for losses, texts in ((self.losses_before, notes), (self.losses_after, later))
        )
        return before, after, f"color: loss of each token, 0 to {scale:.2f}"


def update_map(updates: list[Update]) -> str:
    """The ratio of update to weight of each part of each block, as the text of an SVG."""
    layers = sorted({update.layer for update in updates if update.layer is not None})
    rows = [[update.ratio for update in updates if update.layer == layer] for layer in layers]
    shares, legend, form = log_shares(rows)
    others = ", ".join(f"{u.part} {u.ratio:.2g}" for u in updates if u.layer is None and u.ratio is not None)
    title = f"norm(update) / norm(weight), {legend}; {others}; rule of thumb: 1e-3"
    return heat_map(shares, [f"block {i}" for i in layers], PARTS, title=title, largest=1.0, form=form, cell=24)


def learn(
    model: LoadedModel, text: str, *, lr: float | None = None, optimizer: str = "adamw", shortcuts: bool = True,
    norms: bool = True, moments: str = "fresh", label: str | None = None,
) -> LearnStep:  # fmt: skip
    """One step on `text`, on a copy: `model` is not changed. A classifier learns `label`, by default its most probable
    label.

    `optimizer` "adamw" has the betas, the weight decay and the clipping of the run; "sgd" is w = w - lr * gradient.
    `lr` defaults to the run's peak learning rate. AdamW's moments start at 0, or, with `moments` "checkpoint", where
    training was. ValueError for a text of fewer than two tokens or more than the context, an unknown label, and for a
    gradient that is not finite.
    """
    session = LearningSession(model)
    steps = session.step(
        text, optimizer=optimizer, lr=lr, moments=moments, shortcuts=shortcuts, norms=norms, label=label
    )
    return [item for item in steps if isinstance(item, LearnStep)][-1]


# ----- the optimizer ----------------------------------------------------------------------------------------------


def default_lr(model: LoadedModel) -> float:
    """The peak learning rate of the run; for an imported model the book's rate for fine-tuning."""
    lr = model.description.get("training", {}).get("lr")
    return FINE_TUNING if lr is None else float(lr)


def training_settings(model: LoadedModel) -> dict[str, Any]:
    """beta1, beta2, weight_decay and clip of the run; those of a new run for an imported model."""
    given = model.description.get("training", {})
    return {name: given.get(name, getattr(Settings, name)) for name in ("beta1", "beta2", "weight_decay", "clip")}


def make_optimizer(kind: str, model: LoadedModel, lr: float) -> optim.Optimizer:
    """SGD without momentum and decay, or AdamW as training makes it (gpt.training.session.make_optimizer)."""
    params = list(network(model).parameters())
    if kind == "sgd":
        return optim.SGD(params, lr=lr)
    of = training_settings(model)
    groups = optim.decay_groups(params, of["weight_decay"])
    return optim.AdamW(groups, lr=lr, betas=(of["beta1"], of["beta2"]))


def load_moments(optimizer: optim.Optimizer, model: LoadedModel) -> None:
    """Load the averages that AdamW had at the model's checkpoint. ValueError where the checkpoint has none that fit."""
    folder = model.run if model.step is None else checkpoint.folder_of(model.run, model.step)
    path = Path(folder) / "training.safetensors"
    try:
        steps = json.loads(io.metadata(path)["training"])["optimizer_steps"]
        optimizer.load_state_dict({"steps": steps, "tensors": io.load(path)})
    except (OSError, LookupError, ValueError) as error:
        raise ValueError("this checkpoint has no moments of AdamW for these weights: choose fresh moments") from error


# ----- a session --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """What one step changed, as it was before."""

    weights: list[Tensor]
    kind: str | None  # the optimizer of the step before; None: there was none
    state: Mapping[str, Any] | None  # of that optimizer
    last: LearnStep | None

    @property
    def bytes(self) -> int:
        moments = self.state["tensors"].values() if self.state else ()
        return sum(x.data.nbytes for x in (*self.weights, *moments))


class LearningSession:
    """A copy of a model that learns from texts, step by step. Steps can be undone, the newest first.

    `loaded` is the learned model, `last` the newest step, `losses` has one entry for each step: the mean loss before
    and after it in nats, and a number that is the same for steps on the same text.
    """

    def __init__(self, model: LoadedModel):
        self.loaded = with_own_weights(model)
        for p in self.net.parameters():
            p.requires_grad = True  # a frozen weight learns here too
        self.losses: list[dict[str, float]] = []
        self.last: LearnStep | None = None
        self.history: list[Snapshot] = []
        self._texts: dict[tuple[int, ...], int] = {}
        self._kind: str | None = None
        self._optimizer: optim.Optimizer | None = None
        self._moments = ""

    @property
    def net(self) -> Network:
        return network(self.loaded)

    @property
    def bytes(self) -> int:
        """Of the weights and of the optimizer's state, without the history."""
        moments = self._optimizer.state_dict()["tensors"].values() if self._optimizer else ()
        return sum(x.data.nbytes for x in (*self.net.parameters(), *moments))

    @property
    def history_bytes(self) -> int:
        return sum(snapshot.bytes for snapshot in self.history)

    def step(
        self, text: str, *, optimizer: str = "adamw", lr: float | None = None, moments: str = "fresh",
        shortcuts: bool = True, norms: bool = True, label: str | None = None,
    ) -> Iterator[str | LearnStep]:  # fmt: skip
        """Learn from `text` once: yields "forward", "backward" and "update" before each of them, then the LearnStep.

        `moments` counts where this session has not used AdamW since its last change of optimizer; otherwise its moments
        continue. If the caller stops at one of the names, the model is not changed. Errors as `learn`.
        """
        lr = default_lr(self.loaded) if lr is None else lr
        check_number("lr", lr, 0)
        lr = float(lr)
        check_choice("optimizer", optimizer, OPTIMIZERS)
        check_choice("moments", moments, MOMENTS)
        given = example(self.loaded, text, label)
        yield "forward"
        run = Forward(self.net, given, shortcuts, norms)
        yield "backward"
        run.backward()
        found = run.gradients()
        total = math.hypot(*[group.norm for group in found.groups])
        yield "update"
        for p, g in zip(run.parameters, run.parameter_gradients, strict=True):
            p.grad = g
        try:
            rule, scale, updates = self._update(optimizer, lr, moments, total)
        finally:
            self.net.zero_grad()
        after = predict(self.net, given, shortcuts, norms)
        self.last = LearnStep(
            found.tokens, rule, found.loss, sum(after.losses) / len(after.losses), found.losses, after.losses,
            chances(found.losses), chances(after.losses), total, scale, found, updates, given.labels, given.label,
            run.outcome.probabilities, after.probabilities,
        )  # fmt: skip
        number = self._texts.setdefault((*given.ids, *given.targets), len(self._texts))
        self.losses.append({"before": found.loss, "after": self.last.loss_after, "text": number})
        yield self.last

    def _update(self, kind: str, lr: float, moments: str, total: float) -> tuple[Rule, float, list[Update]]:
        """Step the optimizer; returns the rule, the factor of clipping and the change of each part."""
        if not math.isfinite(total):
            raise ValueError("the gradient is not finite, so no step was taken: undo, or return to the checkpoint")
        weights = [p.detach().clone() for p in self.net.parameters()]
        snapshot = Snapshot(weights, self._kind, self._optimizer_state(), self.last)
        optimizer = self._optimizer_for(kind, lr, moments)
        of = training_settings(self.loaded) if kind == "adamw" else {"weight_decay": 0.0, "clip": 0.0}
        scale = float(optim.clip_scale(optimizer.global_norm(), of["clip"] or math.inf))
        optimizer.step(grad_scale=scale)
        self.history.append(snapshot)
        betas = (of["beta1"], of["beta2"]) if kind == "adamw" else None
        count = len(self.losses) + 1
        rule = Rule(kind, lr, betas, of["weight_decay"], of["clip"], count, self._moments)
        self._moments = self._moments and "continued"
        return rule, scale, changes(self.net, weights)

    def _optimizer_for(self, kind: str, lr: float, moments: str) -> optim.Optimizer:
        """The session's optimizer, a new one where the kind has changed."""
        if self._optimizer is None or self._kind != kind:
            self._optimizer = None  # the new one moves the parameters to memory of its own
            fresh = make_optimizer(kind, self.loaded, lr)
            if kind == "adamw" and moments == "checkpoint":
                load_moments(fresh, self.loaded)
            self._optimizer, self._kind = fresh, kind
            self._moments = moments if kind == "adamw" else ""
        self._optimizer.lr = lr
        return self._optimizer

    def _optimizer_state(self) -> Mapping[str, Any] | None:
        """Copies of AdamW's moments. SGD without momentum has no state that counts."""
        if self._optimizer is None or self._kind != "adamw":
            return None
        state = self._optimizer.state_dict()
        return {**state, "tensors": {name: x.detach().clone() for name, x in state["tensors"].items()}}

    def undo(self) -> None:
        """Go back one step: weights, moments and `last` are as before it. ValueError where the history has no step."""
        if not self.history:
            raise ValueError("there is no step to undo")
        snapshot = self.history.pop()
        for p, before in zip(self.net.parameters(), snapshot.weights, strict=True):
            p.data[...] = before.data
            p.changed()
        self._optimizer, self._kind = None, None
        if snapshot.kind is not None:
            optimizer = self._optimizer_for(snapshot.kind, 0.0, "fresh")
            if snapshot.state is not None:
                optimizer.load_state_dict(snapshot.state)
                self._moments = "continued"
        self.losses.pop()
        self.last = snapshot.last


def with_own_weights(model: LoadedModel) -> LoadedModel:
    """The same model with a copy of its weights."""
    if model.classifier is None:
        return replace(model, model=copy.deepcopy(model.model))
    net = copy.deepcopy(model.classifier.model)
    return replace(model, model=net.body, classifier=model.classifier._replace(model=net))


def changes(net: Network, before: list[Tensor]) -> list[Update]:
    """The change of each part since its parameters were `before`, a copy of each in the order of `parameters()`."""
    old = {id(p): copied for p, copied in zip(net.parameters(), before, strict=True)}
    found = []
    with tl.no_grad():
        for layer, part, params in parts(net):
            weight = math.hypot(*[norm(old[id(p)]) for p in params])
            update = math.hypot(*[norm(p, old[id(p)]) for p in params])
            found.append(Update(layer, part, weight, update, update / weight if weight else None))
    return found


def chances(losses: list[float]) -> list[float]:
    """exp(-loss): the probability of each target."""
    return [math.exp(-loss) for loss in losses]
