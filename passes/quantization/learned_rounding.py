"""What can be learned of the codes of a weight, and of the range of a value (F7.3, F7.4).

A rounding passes the gradient on, and what saturates stops it (``Format.fake``). With s the scale,
z the zero point and Q rounding to the numbers of a format,

    steps       s e^δ Q(W / (s e^δ) + z + ζ)                      LSQ: δ and ζ learned
    block-ap    the same, of W + s0 Δ                             EfficientQAT (A76): Δ too
    flexround   s e^δ Q(W e^-(Δ + δ_out + δ_in) / (s e^δ) + z)    FlexRound (A85)
    adaround    s (clip(⌊W / s⌋ + h(V) + z) - z)                  h a stretched sigmoid, V learned

In AdaRound h is driven to 0 or 1 by ``mean(1 - |2 h - 1|^β)``, with β falling as steps are done. A
step of any of these starts at codes that are given: where they are not those that W would be
rounded to, as after GPTQ, W moves towards them until it is.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

import torch

from ...ir import InputError, Node
from ...ir.codes import in_kernel_order, out_of_kernel_order, paired
from ...ir.formats import Format, Integer, Parameters, Quantized, named
from ...ir.formats.scales import straight
from ..fitting import Learnable
from ..options import AMOUNT, check_numbers
from .weights import Stored

Method: TypeAlias = Literal["steps", "block-ap", "flexround", "adaround"]
EIGHT_BITS = named("int8-asym")
LOW, HIGH = -0.1, 1.1  # what the stretched sigmoid is clipped from
SHARPNESS = 20.0, 2.0  # β at first and at last
WARM = 0.2  # of the steps, in which AdaRound is free
LEAST_SIZE = 1e-2  # of a vector
PUSH = 1.0  # of the penalty, in units of the loss at the start


@dataclass(frozen=True)
class Rates:
    """Learning rates; what has none stays as it is.

    Args:
        weights: Of Δ in steps of the codes (block-ap), in octaves of e (flexround), or of V.
        steps: Of δ.
        zeros: Of ζ, in codes.
        ranges: Of the ends of static ranges, in their logarithm.
        vectors: Of biases, and of the weights and biases of norms, relative to their size.
    """

    weights: float = 0.0
    steps: float = 0.0
    zeros: float = 0.0
    ranges: float = 0.0
    vectors: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, **dict.fromkeys((f.name for f in fields(self)), AMOUNT))


class Rounding(Learnable):
    """A weight whose codes are learned.

    Args:
        weight: ``[O, I, ...]``, what the codes are to stand for.
        stored: Codes to start from.
        pairs: Whether neighbouring codes obey the limit of 16 bits.
        held: Where codes stay those of zero, of the weight's shape.
    """

    def __init__(
        self,
        sees: Sequence[tuple[Node, Node]],
        weight: torch.Tensor,
        stored: Stored,
        tensors: dict[str, torch.Tensor],
        rates: Rates,
        *,
        pairs: bool = False,
        held: torch.Tensor | None = None,
    ) -> None:
        kinds = {
            "scale": rates.steps,
            "zero": rates.zeros,
            **dict.fromkeys(("weight", "rows", "columns"), rates.weights),
        }
        kept = {name: value for name, value in tensors.items() if kinds[name]}
        super().__init__(sees, kept, kinds)
        self.weight, self.stored, self.pairs, self.held = weight, stored, pairs, held
        self.start = stored.quantized

    @property
    def form(self) -> Format:
        return self.start.format

    def parameters(self) -> Parameters:
        """Scales and zero points as they are."""
        start = self.start.parameters
        scale, zero = start.scale, start.zero
        if "scale" in self.tensors:
            scale = scale * self.tensors["scale"].exp()
        if zero is not None and "zero" in self.tensors:
            zero = (zero + self.tensors["zero"]).clamp(0, self.form.element.reach)
        return Parameters(scale, start.whole, zero)

    @abstractmethod
    def codes(self) -> Quantized:
        """The codes as they are now."""

    @abstractmethod
    def soft(self, done: float) -> torch.Tensor:
        """What they stand for, with gradients."""

    @torch.no_grad()
    def settled(self) -> Stored:
        """What is to be stored."""
        found = self.codes()
        if self.pairs:
            rows = in_kernel_order(found.codes.view(torch.int8)).float()
            codes = out_of_kernel_order(paired(rows).to(torch.int8), found.shape)
            found = replace(found, codes=codes.view(torch.uint8))
        return self.stored.changed(found)

    def value(self, value: torch.Tensor, done: float | None) -> torch.Tensor:
        if done is None:
            return self.settled().value
        found = self.soft(done)
        return straight(found, self.settled().value) if self.pairs else found


class Straight(Rounding):
    """Rounding counts as the identity: steps, block-ap and flexround.

    Args:
        method: Which.
    """

    def __init__(
        self,
        sees: Sequence[tuple[Node, Node]],
        weight: torch.Tensor,
        stored: Stored,
        method: Method,
        rates: Rates,
        *,
        pairs: bool = False,
        held: torch.Tensor | None = None,
    ) -> None:
        self.method: Method = method
        start = stored.quantized
        tensors = {"scale": torch.zeros_like(start.parameters.scale)}
        if start.parameters.zero is not None and method != "flexround":
            tensors["zero"] = torch.zeros_like(start.parameters.zero)
        if method != "steps":
            tensors["weight"] = torch.zeros_like(weight)
        if method == "flexround":
            ones = [1] * (weight.dim() - 2)
            tensors["rows"] = weight.new_zeros(len(weight), 1, *ones)
            if ones:
                tensors["columns"] = weight.new_zeros(1, weight.shape[1], *ones)
        super().__init__(sees, weight, stored, tensors, rates, pairs=pairs, held=held)
        self.weight = towards(weight, start)
        step = start.parameters.step.expand_as(start.format.cut(weight))
        self.unit = start.format.join(step, weight.shape)

    def moved(self) -> torch.Tensor:
        """What is rounded."""
        if self.method == "block-ap" and "weight" in self.tensors:
            moved = self.weight + self.unit * self.tensors["weight"]
            return moved if self.held is None else moved.masked_fill(self.held, 0)
        if self.method == "flexround" and "weight" in self.tensors:
            parts = [
                self.tensors[name] for name in ("weight", "rows", "columns") if name in self.tensors
            ]
            return self.weight * torch.exp(-sum(parts[1:], parts[0]))
        return self.weight

    def codes(self) -> Quantized:
        return self.form.quantize(self.moved().detach(), self.parameters())

    def soft(self, done: float) -> torch.Tensor:
        return self.form.fake(self.moved(), self.parameters())


class Steps(Rounding):
    """Codes that stay, under scales that are learned (E2E-QP of EfficientQAT)."""

    def __init__(self, sees: Sequence[tuple[Node, Node]], stored: Stored, rates: Rates) -> None:
        start = stored.quantized
        tensors = {"scale": torch.zeros_like(start.parameters.scale)}
        super().__init__(sees, stored.value, stored, tensors, rates)

    def codes(self) -> Quantized:
        return replace(self.start, parameters=self.form.stored(self.parameters()))

    def soft(self, done: float) -> torch.Tensor:
        start = self.start
        blocks = self.form.values(start.codes, self.parameters())
        return self.form.join(blocks, start.shape).to(start.dtype)


class AdaRound(Rounding):
    """Up or down, for each weight of a format of integers."""

    def __init__(
        self,
        sees: Sequence[tuple[Node, Node]],
        weight: torch.Tensor,
        stored: Stored,
        rates: Rates,
        *,
        pairs: bool = False,
        held: torch.Tensor | None = None,
    ) -> None:
        start = stored.quantized
        form = start.format
        if not isinstance(form.element, Integer) or form.element.fraction:
            raise InputError(
                f"AdaRound chooses between neighbouring integers, and {form} has none",
                do="choose integers, or the method flexround, which takes any format",
            )
        steps = form.cut(towards(weight, start)) / start.parameters.step
        self.down = torch.floor(steps)
        part = (steps - self.down - LOW) / (HIGH - LOW)
        learned = {"weight": torch.logit(part)}
        super().__init__(sees, weight, stored, learned, rates, pairs=pairs, held=held)
        self.moves = None if held is None else form.cut((~held).to(weight.dtype))
        zero = start.parameters.zero
        self.zero = torch.zeros(()) if zero is None else zero

    def up(self) -> torch.Tensor:
        """h(V)."""
        sigmoid = self.tensors["weight"].sigmoid()
        found = (sigmoid * (HIGH - LOW) + LOW).clamp(0, 1)
        return found if self.moves is None else found * self.moves

    def codes(self) -> Quantized:
        numbers = self.down + (self.up() >= 0.5) + self.zero
        codes = self.form.element.nearest(numbers)
        return replace(self.start, codes=codes)

    def soft(self, done: float) -> torch.Tensor:
        start, element = self.start, self.form.element
        assert isinstance(element, Integer)
        numbers = (self.down + self.up() + self.zero).clamp(*element.limits) - self.zero
        return self.form.join(numbers * start.parameters.step, start.shape).to(start.dtype)

    def penalty(self, done: float) -> torch.Tensor | None:
        if done < WARM:
            return None
        first, last = SHARPNESS
        part = (done - WARM) / (1 - WARM)
        sharpness = last + (first - last) * (1 + math.cos(math.pi * part)) / 2
        return PUSH * (1 - (2 * self.up() - 1).abs() ** sharpness).mean()


class Range(Learnable):
    """The ends of the range of a value that has static codes of eight bits (LSQ+).

    Args:
        scale, zero_point: Scalars, to start from.
    """

    def __init__(
        self,
        sees: Sequence[tuple[Node, Node]],
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        rates: Rates,
    ) -> None:
        ends = {"low": torch.zeros(()), "high": torch.zeros(())} if rates.ranges else {}
        super().__init__(sees, ends, dict.fromkeys(ends, rates.ranges))
        self.dtype = zero_point.dtype
        self.least = torch.iinfo(self.dtype).min
        below = zero_point.to(scale.dtype) - self.least
        self.low, self.high = -below * scale, (EIGHT_BITS.element.reach - below) * scale

    def parameters(self) -> Parameters:
        low, high = (self.tensors[name].exp() for name in ("low", "high"))
        return EIGHT_BITS.of_range(self.low * low, self.high * high)

    @torch.no_grad()
    def settled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point."""
        found = EIGHT_BITS.stored(self.parameters())
        assert found.zero is not None
        return found.scale, (found.zero + self.least).to(self.dtype)

    def value(self, value: torch.Tensor, done: float | None) -> torch.Tensor:
        return EIGHT_BITS.fake(value, self.parameters())


class Vector(Learnable):
    """A bias, or a parameter of a norm, as it is; its rate is relative to its size."""

    def __init__(
        self, sees: tuple[Node, Node], index: int, start: torch.Tensor, rate: float
    ) -> None:
        tensors = {"change": torch.zeros_like(start)} if rate else {}
        super().__init__([sees], tensors, {"change": rate})
        self.index, self.start = index, start
        self.unit = start.square().mean().sqrt().clamp(min=LEAST_SIZE)

    @torch.no_grad()
    def settled(self) -> torch.Tensor:
        return self.value(self.start, None)

    def value(self, value: torch.Tensor, done: float | None) -> torch.Tensor:
        change = self.tensors.get("change")
        return self.start if change is None else self.start + self.unit * change


def towards(weight: torch.Tensor, start: Quantized) -> torch.Tensor:
    """Weights as they are where codes are the nearest; elsewhere between these and what the codes
    stand for, so near to that that they are."""
    form, value = start.format, start.dequantize()
    found = weight
    for part in (0.5, 0.75, 0.875, 1.0):
        codes = form.nearest(form.cut(found), start.parameters)
        wrong = form.join((codes != start.codes).to(torch.uint8), weight.shape).bool()
        found = torch.where(wrong, weight + part * (value - weight), found)
    return found
