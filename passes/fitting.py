"""Fit what a section of a graph reads so that it gives what it should (block reconstruction).

    min over θ of  sum_t |g(x'_t; p(θ)) - g(x_t; p)|^2 / |g(x_t; p)|^2

g is the section, x what flows into it, x' the same from a changed part before it, p the values that
its nodes read, of which some are functions of learned tensors θ. Only the section and its batches
are in memory. What is learned is judged on batches that learning does not see, and the best
step by these is kept, so the result is never worse there than the start.

Nothing here knows what is learned, or why: rounding, ranges, what is left after pruning, factors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch.nn import functional as F

from ..ir import Node
from ..ir.interpret import Read, compute
from ..ir.sections import Section
from .base import Context, Remark, applied, missed
from .calibration import as_rows
from .journal import journaled
from .options import AMOUNT, COUNT, SHARE, SOME, check_known, check_numbers

HELD_OUT = 4  # one of so many batches
Values: TypeAlias = "dict[Node, Any]"
Loss: TypeAlias = Literal["relative", "squared", "divergence"]
Schedule: TypeAlias = Literal["constant", "cosine"]
Optimizer: TypeAlias = Literal["adam", "adamw"]


class Learnable(ABC):
    """What some readers see in the place of a value.

    Args:
        sees: The readers, each with the value.
        tensors: What is learned, by name: leaves that require gradients; may be empty.
        rates: The learning rate of each.
    """

    def __init__(
        self,
        sees: Sequence[tuple[Node, Node]],
        tensors: dict[str, torch.Tensor] | None = None,
        rates: dict[str, float] | None = None,
    ) -> None:
        self.sees = tuple(sees)
        self.tensors = {
            name: value.detach().clone().requires_grad_() for name, value in (tensors or {}).items()
        }
        self.rates = rates or {}

    @abstractmethod
    def value(self, value: Any, done: float | None) -> Any:
        """What is seen of a value.

        Args:
            done: Which part of the steps is done; ``None`` for what the value is in the end.
        """
        ...

    def penalty(self, done: float) -> torch.Tensor | None:
        """What is added to the loss, in units of what that was at the start."""
        return None


class Given(Learnable):
    """A tensor as it is, in the place of a parameter; learned where there is a rate."""

    def __init__(
        self, sees: Sequence[tuple[Node, Node]], tensor: torch.Tensor, rate: float = 0.0
    ) -> None:
        super().__init__(sees, {"tensor": tensor} if rate else {}, {"tensor": rate})
        self.fixed = tensor

    @property
    def tensor(self) -> torch.Tensor:
        return self.tensors.get("tensor", self.fixed)

    def value(self, value: Any, done: float | None) -> torch.Tensor:
        return self.tensor


class Computed(Learnable):
    """A fixed function of the value."""

    def __init__(self, sees: Sequence[tuple[Node, Node]], function: Callable[[Any], Any]) -> None:
        super().__init__(sees)
        self.function = function

    def value(self, value: Any, done: float | None) -> Any:
        return self.function(value)


@dataclass
class Samples:
    """What goes through a section, by batch.

    Attributes:
        exact: What flows in, as it is, with the parameters that are read.
        given: The same from a changed part before it.
        masks: Which positions are no padding, where there is any.
        wanted: What should flow out, of each value that counts; computed from ``exact`` where it is
            not at hand.
    """

    exact: Sequence[Values]
    given: Sequence[Values]
    masks: Sequence[torch.Tensor | None]
    wanted: Sequence[Values] | None = None

    def __len__(self) -> int:
        return len(self.exact)


@journaled
@dataclass(frozen=True)
class Fit:
    """How learning went: the loss on held-out batches before and after, and the step taken; 0 where
    none was better than the start."""

    before: float
    after: float
    step: int

    def __str__(self) -> str:
        return f"held-out error {self.before**0.5:.3g} to {self.after**0.5:.3g}, step {self.step}"

    def remark(self, node: Node, what: str) -> Remark:
        """What is said of it at a node.

        Args:
            what: Was done, such as ``reconstructed``.
        """
        data = {"error_before": self.before**0.5, "error_after": self.after**0.5, "step": self.step}
        if self.step:
            return applied(node, f"{what}: {self}", **data)
        text = f"left as it is: learning does not lower the held-out error, {self.before**0.5:.3g}"
        return missed(node, text, **data)


@dataclass(frozen=True)
class Fitter:
    """Gradient descent on what a section gives.

    Args:
        steps: How many.
        batches: How many calibration batches a step takes.
        schedule: Of the rates: constant, or a cosine down to ``floor`` of them.
        floor: Where the cosine ends.
        optimizer: Adam, or AdamW with ``decay``.
        decay: Of weights.
        loss: ``relative``: the squared error of each output, relative to its power; ``squared``;
            or ``divergence``: of the distributions of which the outputs are logits.
        drop: The part of what flows in that is taken from the exact stream, number by number and
            anew at each step (QDrop).
        checks: How often the held-out batches are looked at.
    """

    steps: int = 100
    batches: int = 1
    schedule: Schedule = "cosine"
    floor: float = 0.05
    optimizer: Optimizer = "adam"
    decay: float = 0.0
    loss: Loss = "relative"
    drop: float = 0.0
    checks: int = 8

    def __post_init__(self) -> None:
        check_numbers(
            self, steps=SOME, batches=COUNT, floor=SHARE, decay=AMOUNT, drop=SHARE, checks=COUNT
        )
        check_known([self.schedule], get_args(Schedule), "schedule")
        check_known([self.optimizer], get_args(Optimizer), "optimizer")
        check_known([self.loss], get_args(Loss), "loss")

    def fit(
        self,
        section: Section,
        samples: Samples,
        learned: Sequence[Learnable],
        context: Context,
        who: str,
    ) -> Fit:
        """Learn; what is best by the held-out batches is left in the learnables' tensors.

        What is learned starts, if it is to be judged fairly, at what follows from the batches that
        ``split`` says can be learned on.
        """
        run = _Run(self, section, samples, learned, context.generator())
        seen, judged = split(len(samples))
        first = least = run.error(judged)
        tensors = [tensor for part in learned for tensor in part.tensors.values()]
        if not (tensors and math.isfinite(first) and first > 0):
            return Fit(first, first, 0)
        best, best_step = [tensor.detach().clone() for tensor in tensors], 0
        optimizer = self._optimizer(learned)
        rates = [group["lr"] for group in optimizer.param_groups]
        order = orders(seen, run.generator)
        every = max(1, self.steps // self.checks)
        for step in context.progress(range(1, self.steps + 1), who):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self._factor(step)
            optimizer.zero_grad()
            with torch.enable_grad():
                for _ in range(self.batches):
                    run.loss(next(order), step / self.steps, first).backward()
            optimizer.step()
            if step % every == 0 or step == self.steps:
                error = run.error(judged)
                if error < least:
                    least, best_step = error, step
                    best = [tensor.detach().clone() for tensor in tensors]
        with torch.no_grad():
            for tensor, found in zip(tensors, best, strict=True):
                tensor.copy_(found)
        return Fit(first, least, best_step)

    def fit_once(
        self,
        section: Section,
        samples: Samples,
        learned: Sequence[Learnable],
        context: Context,
        who: str,
        name: str,
    ) -> Fit:
        """The same, unless the journal has what came of it under this name."""

        def fit() -> tuple[Fit, list[dict[str, torch.Tensor]]]:
            found = self.fit(section, samples, learned, context, who)
            return found, [{n: t.detach() for n, t in part.tensors.items()} for part in learned]

        found, parts = context.journal.once(name, fit)
        with torch.no_grad():
            for part, tensors in zip(learned, parts, strict=True):
                for key, tensor in tensors.items():
                    part.tensors[key].copy_(tensor)
        return found

    def _optimizer(self, learned: Sequence[Learnable]) -> torch.optim.Optimizer:
        groups = [
            {"params": [tensor], "lr": part.rates[name]}
            for part in learned
            for name, tensor in part.tensors.items()
        ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, weight_decay=self.decay)
        return torch.optim.Adam(groups)

    def _factor(self, step: int) -> float:
        """Of the rates, at a step."""
        if self.schedule == "constant":
            return 1.0
        part = (step - 1) / max(1, self.steps - 1)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * part)) / 2


@dataclass
class _Run:
    """A section with what is learned of it, and what it should give."""

    fitter: Fitter
    section: Section
    samples: Samples
    learned: Sequence[Learnable]
    generator: torch.Generator
    outputs: list[Node] = field(init=False)

    def __post_init__(self) -> None:
        wanted = self.samples.wanted
        self.outputs = [
            node
            for node in changed(self.section, self.learned)
            if wanted is None or node in wanted[0]
        ]

    def loss(self, batch: int, done: float, first: float) -> torch.Tensor:
        """What a step minimises."""
        given = self.samples.given[batch]
        if self.fitter.drop:
            given = {
                node: self._mixed(value, self.samples.exact[batch][node])
                for node, value in given.items()
            }
        total = self._damage(batch, given, done)
        penalties = [part.penalty(done) for part in self.learned]
        for penalty in penalties:
            total = total if penalty is None else total + first * penalty
        return total

    @torch.no_grad()
    def error(self, batches: Sequence[int]) -> float:
        """The mean loss of what is stored in the end."""
        errors = [float(self._damage(i, self.samples.given[i], None)) for i in batches]
        return sum(errors) / len(errors)

    def _damage(self, batch: int, given: Values, done: float | None) -> torch.Tensor:
        found = self._outputs(given, reading(self.learned, done))
        wanted = self._wanted(batch)
        total = torch.zeros(())
        for node in self.outputs:
            if isinstance(wanted[node], torch.Tensor) and wanted[node].is_floating_point():
                mask = self.samples.masks[batch]
                total = total + damage(found[node], wanted[node], mask, self.fitter.loss)
        return total

    def _wanted(self, batch: int) -> Values:
        if self.samples.wanted is not None:
            return self.samples.wanted[batch]
        with torch.no_grad():
            return self._outputs(self.samples.exact[batch], None)

    def _outputs(self, given: Values, read: Read | None) -> Values:
        values = dict(given)
        compute(self.section.nodes, values, keep=self.outputs, read=read)
        return values

    def _mixed(self, given: Any, exact: Any) -> Any:
        if not isinstance(given, torch.Tensor) or not given.is_floating_point():
            return given
        if torch.equal(given, exact):
            return given
        chosen = torch.rand(given.shape, generator=self.generator) < self.fitter.drop
        return torch.where(chosen, exact, given)


def split(count: int) -> tuple[range, range]:
    """The batches to learn on and those that are held out; a single one is both."""
    held = max(1, count // HELD_OUT)
    judged = range(count - held, count)
    return range(count - held) or judged, judged


def changed(section: Section, learned: Sequence[Learnable]) -> list[Node]:
    """What flows out of a section and depends on what is learned."""
    touched = section.downstream(reader for part in learned for reader, _ in part.sees)
    return [node for node in section.exits if node in touched]


def reading(learned: Sequence[Learnable], done: float | None) -> Read:
    """What readers see, for one run; each value is made once for all that read it."""
    seen_by = {pair: part for part in learned for pair in part.sees}
    made: dict[Learnable, tuple[Any, Any]] = {}

    def read(reader: Node, used: Node, value: Any) -> Any:
        part = seen_by.get((reader, used))
        if part is None:
            return value
        if part not in made or made[part][0] is not value:
            made[part] = value, part.value(value, done)
        return made[part][1]

    return read


def damage(
    found: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None, loss: Loss
) -> torch.Tensor:
    """What an output's error costs; positions of padding and what is infinite count for nothing."""
    found, wanted = (
        value if value.dtype == torch.float64 else value.float() for value in (found, wanted)
    )
    if loss == "divergence":
        true = as_rows(wanted, -1, mask).log_softmax(-1)
        mine = as_rows(found, -1, mask).log_softmax(-1)
        return F.kl_div(mine, true, reduction="batchmean", log_target=True)
    known = wanted.isfinite()
    gap = as_rows(torch.where(known, found - wanted, 0.0), -1, mask)
    if loss == "squared":
        return gap.square().mean()
    power = as_rows(torch.where(known, wanted, 0.0), -1, mask).square().sum()
    return gap.square().sum() / power.clamp(min=1e-30)


def orders(among: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    """All batches in a random order, again and again."""
    while True:
        yield from (among[i] for i in torch.randperm(len(among), generator=generator).tolist())
