from __future__ import annotations

import pytest
import torch
from matrices import damage, layer

from regauge.ir.formats import named
from regauge.passes.quantization.solvers import RANGES, Grid, Hessian, clipped


@pytest.mark.parametrize(
    "name", ["int3-g8-asym", "int3-g16", "int3-g48-pad", "int4-channel", "mxfp4"]
)
def test_clipping_lowers_what_groups_add_to_the_output(name: str) -> None:
    weight, hessian = layer(columns=64)
    form = named(name)

    def cost(parameters: object) -> torch.Tensor:
        """Of each row, the sum over groups of their own damage."""
        error = Grid.of(form, weight, parameters).nearest(weight) - weight  # type: ignore[arg-type]
        size = form.granularity.size or 64
        parts = [
            Hessian(hessian.matrix[i : i + size, i : i + size]).cost(error[:, i : i + size])
            for i in range(0, 64, size)
        ]
        return torch.stack(parts).sum(0)

    plain, found = cost(form.fit(weight)), cost(clipped(form, weight, hessian))
    assert bool((found <= plain * (1 + 1e-5)).all())
    assert float(found.sum()) < float(plain.sum()) or name == "mxfp4"  # powers of two move less


@pytest.mark.parametrize("name", ["int3-tensor", "d4-channel", "binary-channel"])
def test_where_rows_share_a_scale_the_error_of_weights_decides(name: str) -> None:
    weight, hessian = layer()
    form = named(name)
    found, other = (RANGES[rule](form, weight, hessian) for rule in ("output", "error"))
    assert torch.equal(found.scale, other.scale)


def test_without_data_the_search_is_by_the_weights() -> None:
    weight, hessian = layer()
    form = named("int3-g8")
    assert torch.equal(clipped(form, weight, None).scale, RANGES["error"](form, weight, None).scale)
    whole = RANGES["range"](form, weight, hessian)
    assert torch.equal(whole.scale, form.fit(weight).scale)
    searched = RANGES["error"](form, weight, hessian)
    cost = [
        damage(weight, Grid.of(form, weight, p).nearest(weight), hessian) for p in (whole, searched)
    ]
    assert cost[1] < cost[0]
