"""Make text with a decoder: score, choose, go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backends.runner import KeepsState, Runner, Steps
from ..ir import Graph, InputError
from ..ir.interpret import check_inputs
from .decoder import Decoder


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: What scores are divided by; 0 takes the best one.
        top_k: Draw from so many best alone.
        top_p: Draw from the fewest best that together have this probability.
        seed: Of what is drawn.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"temperature is {self.temperature:g}, and must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}, and must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p:g}, and must be in (0, 1]")
        if not self.temperature and (self.top_k is not None or self.top_p is not None):
            raise InputError(
                "top_k and top_p say what to draw from, and at temperature 0 nothing is drawn",
                do="give a temperature, such as 1.0",
            )

    def choose(self, scores: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Ids ``[batch]`` by scores ``[batch, vocabulary]``."""
        if not self.temperature:
            return scores.argmax(-1)
        chances = self.kept(scores.float() / self.temperature).softmax(-1)
        return torch.multinomial(chances, 1, generator=generator).squeeze(-1)

    def kept(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores, of ids that are not drawn from ``-inf``."""
        if self.top_k is not None:
            least = scores.topk(min(self.top_k, scores.shape[-1])).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = scores.sort(descending=True, stable=True)
            chances = ordered.softmax(-1)
            better = chances.cumsum(-1) - chances  # the probability of all better ones
            out = (better >= self.top_p).scatter(-1, order, better >= self.top_p)
            scores = scores.masked_fill(out, -torch.inf)
        return scores


def stream(
    graph: Graph,
    runner: Runner,
    decoder: Decoder,
    constants: Mapping[str, Any],
    ids: torch.Tensor,
    *,
    count: int,
    sampling: Sampling,
    ends: Sequence[int],
    padding: int,
) -> Iterator[torch.Tensor]:
    """Ids ``[batch]``, one token at a time, at most ``count``; a text that has ended is padded."""
    if count < 1:
        return
    last = torch.tensor(ends, dtype=ids.dtype)
    ended = torch.zeros(ids.shape[0], dtype=torch.bool)
    generator = torch.Generator().manual_seed(sampling.seed)
    steps = begin(graph, runner, decoder, constants, ids, ids.shape[1] + count - 1)
    fresh = ids
    for made in range(count):
        scores = steps(fresh)[:, -1]
        token = sampling.choose(scores, generator).masked_fill(ended, padding)
        yield token
        ended |= torch.isin(token, last)
        if made + 1 == count or ended.all():
            return
        fresh = token.unsqueeze(1)


def begin(
    graph: Graph,
    runner: Runner,
    decoder: Decoder,
    constants: Mapping[str, Any],
    ids: torch.Tensor,
    capacity: int,
) -> Steps:
    """A sequence that has no tokens yet."""
    first = ids[:, :1] if decoder.one_by_one else ids
    given = {**constants, **decoder.empty(graph, ids.shape[0]), decoder.ids: first}
    check_inputs(graph, [given[node.name] for node in graph.inputs])
    steps: Steps | None = None
    if isinstance(runner, KeepsState):
        steps = runner.steps(decoder.ids, decoder.scores, dict(decoder.state), given, capacity)
    if steps is None:
        steps = _Plain(graph, runner, decoder, given)
    return _OneByOne(steps) if decoder.one_by_one else steps


class _OneByOne:
    """What takes one token is given several; the scores are of the last."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        *before, last = ids.split(1, 1)
        for token in before:
            self.steps(token)
        return self.steps(last)


class _Plain:
    """State handed from call to call."""

    def __init__(
        self, graph: Graph, runner: Runner, decoder: Decoder, given: dict[str, Any]
    ) -> None:
        self.names = [node.name for node in graph.inputs]
        self.runner, self.decoder, self.given = runner, decoder, given

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        self.given[self.decoder.ids] = ids
        found = self.runner([self.given[name] for name in self.names])
        self.given |= {name: found[place] for name, place in self.decoder.state}
        return found[self.decoder.scores]


def read_all(
    graph: Graph, runner: Runner, decoder: Decoder, calls: Sequence[Sequence[Any]]
) -> tuple[Any, ...]:
    """The outputs of calls that follow one another as those of one call on all of their tokens.

    Args:
        calls: Flat inputs; of the state, only that of the first counts.
    """
    found = [runner(calls[0])]
    for flat in calls[1:]:
        found.append(runner(decoder.following(graph, flat, found[-1])))
    state = {place for _, place in decoder.state}
    return tuple(
        parts[-1] if place in state or len(parts) == 1 else torch.cat(parts, 1)
        for place, parts in enumerate(zip(*found, strict=True))
    )


def check_prompt(ids: Any, mask: Any) -> None:
    """Refuse what is no batch of token ids, or one of unequal lengths."""
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or not ids.shape[1]:
        found = list(ids.shape) if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise InputError(
            f"expected token ids [batch, tokens], got {found}",
            do="tokenizer(text, return_tensors='pt').input_ids gives them",
        )
    if mask is not None and not bool(torch.as_tensor(mask).all()):
        raise InputError(
            "attention_mask leaves tokens out: prompts of unequal lengths are not taken together",
            do="call generate once for each length of prompt, without padding",
        )
