"""Pooling, resizing, transposed convolutions and grouped products, in each number of axes."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from regauge.backends.onnx.lower import LOWERINGS
from regauge.backends.onnx.lower.pooling import LOWERINGS as POOLING
from regauge.ir import Graph

Make: TypeAlias = Callable[..., Graph]
Check: TypeAlias = Callable[..., None]

SIZES = (12, 9, 6)


def image(n: int) -> str:
    return f"x: f32[n, 4, {', '.join(map(str, SIZES[:n]))}]"


def same(value: int, n: int) -> str:
    return f"({f'{value}, ' * n})"


CASES: dict[str, tuple[str, str]] = {}
for n in (1, 2, 3):
    wide, three, two, one = image(n), same(3, n), same(2, n), same(1, n)
    CASES.update({
        f"max_pool{n}d": (
            wide, f"kernel_size={three}, stride={two}, padding={one}, ceil_mode=True",
        ),
        f"avg_pool{n}d": (wide, f"kernel_size={two}"),
        f"avg_pool{n}d, padded": (
            wide, f"kernel_size={three}, stride={two}, padding={one}, count_include_pad=False",
        ),
        f"adaptive_avg_pool{n}d": (wide, f"output_size={one}"),
        f"adaptive_avg_pool{n}d, three": (wide, f"output_size={three}"),
        f"upsample_nearest{n}d": (
            wide, f"output_size=({', '.join(str(2 * s) for s in SIZES[:n])},), scale_factors=None",
        ),
        f"upsample_nearest{n}d, by": (
            wide, f"output_size=None, scale_factors=({'1.5, ' * n})",
        ),
    })  # fmt: skip
for kind in ("bilinear", "bicubic"):
    for corners in (True, False):
        CASES[f"upsample_{kind}2d, {corners}"] = (
            image(2), f"output_size=(20, 7), align_corners={corners}, scale_factors=None",
        )  # fmt: skip
    CASES[f"upsample_{kind}2d, by"] = (
        image(2), "output_size=None, align_corners=False, scale_factors=(2.0, 2.5)",
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pools_as_the_interpreter_does(name: str, graph_of: Make, check_runs: Check) -> None:
    head, attrs = CASES[name]
    check_runs(graph_of(head, f"y = {name.split(',')[0]}(x, {attrs})"), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed_convolutions(n: int, graph_of: Make, check_runs: Check) -> None:
    head = f"{image(n)}, *, w: f32[4, 3{', 3' * n}], c: f32[6]"
    attrs = f"stride={same(2, n)}, padding={same(1, n)}, output_padding={same(1, n)}, groups=2"
    check_runs(graph_of(head, f"y = conv_transpose{n}d(x, w, c, {attrs})"))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed_convolutions_by_codes(n: int, graph_of: Make, check_runs: Check) -> None:
    ones = ", 1" * n
    head = f"{image(n)}, *, q: i8[4, 6{', 3' * n}], s: f32[1, 6{ones}], c: f32[6]"
    line = f"y = conv_transpose{n}d(z, w, c, stride={same(2, n)}, padding={same(1, n)})"
    # Codes are up to 127: so results are near 1.
    check_runs(graph_of(head, "z = mul(x, 0.001)", "w = dequantize(q, s)", line))


def test_every_pooling_has_a_case() -> None:
    assert set(POOLING) <= {name.split(",")[0] for name in CASES} and set(POOLING) <= set(LOWERINGS)
