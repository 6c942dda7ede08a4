"""A small random model of every family that the installed ``transformers`` knows.

No family has a recipe of its own. A configuration is shrunk by the names and the types of its
attributes: what looks like a width becomes the same small width everywhere, so that what must be
equal or divide each other still does, depths become two, tokens stay distinct. Where a family does
not build or run with one choice of sizes, the next is tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import inputs
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

VOCABULARY = 99
LARGEST = 20_000_000  # parameters, with which a family is still small
# Follow from other attributes, or say nothing about the model.
_DERIVED = {
    "architectures", "dtype", "id2label", "label2id", "out_features", "out_indices", "stage_names",
    "torch_dtype", "transformers_version",
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What sizes become.

    Attributes:
        hidden, inner: Widths: of the residual stream, and of what lies between two linear maps.
        heads, groups, head: Heads, the fewer heads of keys and values, and the width of each.
        depth: Layers, unless more are needed to have one of each kind.
        image: Height and width of an image.
        divisor: Where given, widths are divided by it, and nothing of the above but the depth
            counts.
    """

    hidden: int = 32
    inner: int = 64
    heads: int = 4
    groups: int = 2
    head: int = 8
    depth: int = 2
    image: int = 64
    divisor: int = 0


CHOICES = (
    Sizes(),
    Sizes(head=16),
    Sizes(groups=4),
    Sizes(hidden=64, inner=128, head=16),
    Sizes(hidden=64, inner=64, head=16, groups=4, image=128),
    Sizes(hidden=512, head=128),
    Sizes(divisor=8),
    Sizes(divisor=4, image=128),
    Sizes(divisor=1, image=224),
)


@dataclass
class Example:
    """A model in eval mode and how to call it."""

    model: torch.nn.Module
    kwargs: dict[str, Any]


class Unbuildable(Exception):
    """No choice of sizes gives a model that runs; the message is the first reason."""


def names() -> list[str]:
    """The families: each model type that has a model, in alphabetical order."""
    return sorted(name for name, kind in CONFIG_MAPPING.items() if kind in MODEL_MAPPING)


def build(name: str, seed: int = 0) -> Example:
    """A small model of a family with random weights, and inputs on which it runs.

    Raises:
        Unbuildable: With the reason.
    """
    config_class = CONFIG_MAPPING[name]
    found: Any = MODEL_MAPPING[config_class]
    model_class = found[0] if isinstance(found, (tuple, list)) else found
    try:
        full = config_class().to_dict()
    except Exception as error:
        raise Unbuildable(f"no default configuration: {first_line(error)}") from error
    reasons: list[str] = []
    for sizes in CHOICES:
        torch.manual_seed(seed)
        try:
            config = config_class(**shrink(full, sizes))
            model = _model(model_class, config)
            randomize(model)
            return Example(model, inputs.find(model, config, sizes.image))
        except Exception as error:  # whatever a family raises, the next choice may suit it
            reasons.append(first_line(error))
    raise Unbuildable(reasons[0])


def _model(model_class: Any, config: Any) -> torch.nn.Module:
    """The model, if it is small; how large it would be is asked of the meta device."""
    with torch.device("meta"):
        try:
            count = sum(p.numel() for p in model_class(config).parameters())
        except (RuntimeError, NotImplementedError):  # computes with numbers while it is built
            count = 0
    if count > LARGEST:
        raise Unbuildable(f"{count / 1e6:.0f} million parameters when shrunk")
    return cast(torch.nn.Module, model_class(config)).float().eval()


def randomize(model: torch.nn.Module) -> None:
    """Random weights where they are ones, zeros or nothing, and statistics that are not neutral.

    A norm of ones and a bias of zeros could be left out, and nobody would notice.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            if not bool(parameter.isfinite().all()) or (
                parameter.dim() > 1 and not parameter.any()
            ):
                parameter.normal_(std=0.1)
            if parameter.dim() <= 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(1 + torch.rand_like(buffer))


def first_line(error: BaseException) -> str:
    """The class of an error and the first line of what it says."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


# -- shrinking ----------------------------------------------------------------------------------


def shrink(values: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """A configuration as a dictionary, sub-configurations included, with small sizes."""
    made = _Shrinking(sizes).all(values)
    made.pop("model_type", None)
    return made


@dataclass
class _Shrinking:
    sizes: Sizes
    tokens: dict[int, int] = field(default_factory=dict[int, int])  # old -> new, each another

    def all(self, values: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in values.items() if key not in _DERIVED}
        layers = {
            key: value for key, value in kept.items() if _is_count(value) and _LAYERS.search(key)
        }
        lists = {
            key: value
            for key, value in kept.items()
            if isinstance(value, (list, tuple)) and len(value) in layers.values()
        }
        single = [v for v in kept.values() if _is_by_layer(v)]
        places = {
            count: self.places(
                count,
                [
                    *lists.values(),
                    *([one.get(i) for i in range(count)] for one in map(_numbered, single)),
                ],
            )
            for count in set(layers.values())
        }
        heads = next((v for k, v in kept.items() if _is_count(v) and _HEADS.search(k)), None)
        made: dict[str, Any] = {}
        for key, value in kept.items():
            if key in layers:
                made[key] = len(places[value])
            elif key in lists:
                made[key] = self.value(key, [value[i] for i in places[len(value)]])
            elif _is_count(value) and _GROUPS.search(key):
                made[key] = self.groups(value, heads)
            elif _is_by_layer(value) and layers:
                old, kinds = _numbered(value), places[next(iter(layers.values()))]
                made[key] = {str(j): self.all(old[i]) for j, i in enumerate(kinds) if i in old}
            elif value is None and key == "head_dim" and heads:
                made[key] = (
                    self.sizes.hidden // self.sizes.heads if not self.sizes.divisor else None
                )
            elif value is None and key == "num_key_value_heads" and heads:
                made[key] = self.value("num_heads", heads)
            elif key == "use_cache":
                made[key] = False
            else:
                made[key] = self.value(key, value)
        return made

    def places(self, count: int, lists: Any) -> list[int]:
        """Which layers stay: one of each kind, and the first ones."""
        kept: dict[int, None] = {}
        kinds = [tuple(str(part[i]) for part in lists if len(part) == count) for i in range(count)]
        for i, kind in enumerate(kinds):
            if kind not in kinds[:i] and len(kept) < 4:
                kept[i] = None
        for i in range(count):
            if len(kept) < min(self.sizes.depth, count):
                kept[i] = None
        return sorted(kept)

    def groups(self, value: int, heads: int | None) -> int:
        if self.sizes.divisor:
            return value
        return value if value == 1 else self.sizes.heads if value == heads else self.sizes.groups

    def value(self, key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self.all(value) if all(isinstance(k, str) for k in value) else dict(value)
        if isinstance(value, (list, tuple)):
            return self.list(key, list(value))
        if not _is_count(value):
            return value
        if _TOKEN.search(key):
            return self.token(value)
        return next((rule(value, self.sizes) for p, rule in _RULES if p.search(key)), value)

    def token(self, value: int) -> int:
        if value < VOCABULARY - 20:
            return value
        return self.tokens.setdefault(value, VOCABULARY - 1 - len(self.tokens) % 20)

    def list(self, key: str, values: list[Any]) -> list[Any]:
        if not values or not all(_is_count(value) for value in values):
            if len(values) > 7 and all(isinstance(value, float) for value in values):
                return values[: self.sizes.head // 2]  # a factor for each rotation of a head
            return [self.value(key, value) for value in values]
        if re.search(r"(image|img|input)_size$", key):
            return [self.sizes.image] * len(values)
        if "section" in key and not self.sizes.divisor:
            return _shares(self.sizes.head // 2, len(values))
        if re.search(r"ind(ex|ices)|layer_ids|_layers$", key) and len(set(values)) == len(values):
            return sorted({min(value, self.sizes.depth - 1) for value in values})
        if re.search(r"depths?$|layers|num_blocks", key):
            return [min(value, 2) for value in values]
        if self.sizes.divisor and max(values) >= 16:
            return [max(value // self.sizes.divisor, 1) for value in values]
        if re.search(r"heads?$", key):
            return [max(value * min(values[0], 2) // values[0], 1) for value in values]
        if _WIDTH.search(key) and max(values) >= 16 and min(values) > 3:
            return [max(value * 16 // values[0] // 8, 1) * 8 for value in values]
        return [self.value(key, value) for value in values]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_by_layer(value: Any) -> bool:
    """Whether a dictionary has numbers of layers for keys."""
    return isinstance(value, Mapping) and bool(value) and all(str(k).isdigit() for k in value)


def _numbered(value: Mapping[Any, Any]) -> dict[int, Any]:
    return {int(key): part for key, part in value.items()}


def _shares(total: int, parts: int) -> list[int]:
    """A number as a sum of nearly equal parts, the greatest first."""
    return [total // parts + (i < total % parts) for i in range(parts)]


Rule = Callable[[int, Sizes], int]


def _most(limit: int) -> Rule:
    return lambda value, sizes: min(value, limit)


def _wide(name: str) -> Rule:
    """A width of at least 16; what is less is no width."""

    def rule(value: int, sizes: Sizes) -> int:
        if value < 16:
            return value
        return max(value // sizes.divisor, 8) if sizes.divisor else int(getattr(sizes, name))

    return rule


def _head(value: int, sizes: Sizes) -> int:
    return max(value // sizes.divisor, 4) if sizes.divisor else sizes.head


def _heads(value: int, sizes: Sizes) -> int:
    return value if sizes.divisor else min(value, sizes.heads)


def _rotary(value: int, sizes: Sizes) -> int:
    return max(value // sizes.divisor, 2) if sizes.divisor else sizes.head // 2


def _image(value: int, sizes: Sizes) -> int:
    return sizes.image


_TOKEN = re.compile(r"(_id|_ids|_token_index|_token)$")
_LAYERS = re.compile(r"layers?$|n_layer|depth$|num_blocks$|layers_")
_HEADS = re.compile(r"heads?$")
_GROUPS = re.compile(r"kv_?heads?|key_value_heads|head_kv|multi_query_group|query_groups")
_WIDTH = re.compile(r"hidden|d_model|dims?$|_dim_|embd|embed|channels|width|project|features?$|"
                    r"units|sizes?$|planes|filters|inner|ffn|d_ff|intermediate")  # fmt: skip
_RULES: Sequence[tuple[re.Pattern[str], Rule]] = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"kernel|stride|dilation|ratio|theta|base$|bucket|eps|fft|hop|sampling|rate$|scal",
         lambda value, sizes: value),
        (r"codebook_size", _most(64)),  # a power of two
        (r"vocab|num_embeddings$", _most(VOCABULARY)),
        (r"mel|feature_size|input_feat|num_bins", _most(16)),
        (r"period|interval|pattern|every|freq$|_step$", _most(2)),
        (r"offset|first_k|n_shared", _most(1)),
        (r"topk_group|n_group$", _most(1)),
        (r"per_tok|top_?k|num_selected|moe_k", _most(2)),
        (r"experts|n_routed", _most(4)),
        (r"rotary_dim", _rotary),
        (r"d_ssm|ssm_dim", _wide("inner")),
        (r"head_?dim|head_size|d_kv|kv_channels|d_head|head_width", _head),
        (r"heads?$", _heads),
        (r"groups?$|chunk", _most(4)),
        (r"rank|state_size|d_state", _most(8)),
        (r"patch_size", _most(16)),
        (r"image_size|img_size|input_size", _image),
        (r"window", _most(4)),
        (r"frames|tubelet|temporal", _most(4)),
        (r"position|max_seq|seq_len|seq_length|max_len|context|n_ctx|max_source|max_target",
         _most(64)),
        (r"quer(y|ies)|latents|num_labels", _most(8)),
        (r"intermediate|ffn|d_ff|ff_dim|inner|mlp_dim|mlp_hidden|feed_?forward", _wide("inner")),
        (_WIDTH.pattern, _wide("hidden")),
    )
)  # fmt: skip


def spread(passing: Sequence[str], count: int) -> list[str]:
    """Families at equal distances in a sorted list."""
    count = min(count, len(passing))
    return [passing[i * len(passing) // count] for i in range(count)]


def versions() -> str:
    """The versions that the families come from."""
    return f"transformers {transformers.__version__}, torch {torch.__version__}"
