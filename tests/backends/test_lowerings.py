"""Every lowering computes in ONNX Runtime what the op table computes in PyTorch."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
from op_cases import CASES

from regauge.backends.onnx.lower import LOWERINGS
from regauge.backends.onnx.lower.pooling import LOWERINGS as POOLING
from regauge.ir import Graph, ops
from regauge.ir.recurrence import NAMES as RECURRENT

Make: TypeAlias = Callable[..., Graph]
Check: TypeAlias = Callable[..., None]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_computes_what_the_interpreter_computes(
    case: tuple[str, ...], graph_of: Make, check_runs: Check
) -> None:
    check_runs(graph_of(*case))


def test_every_lowering_has_a_case() -> None:
    named = {name.split(",")[0] for name in CASES}
    named |= {line.split("= ")[1].split("(")[0] for case in CASES.values() for line in case[1:]}
    # test_forms, test_pooling, test_experts, test_blocks, test_recurrence and test_onnx have these
    others = ("ort.", "conv_transpose", *POOLING, "grouped_mm", "decode", *RECURRENT)
    others += ("aten.item.default", "aten.where.default")
    left = {name for name in LOWERINGS if not name.startswith(others)}
    assert left - named == set()


def test_every_op_of_the_table_has_a_lowering() -> None:
    pure = {op.name for op in ops.OPS.values() if not op.impure}
    # Complex numbers have no form in ONNX, the second is torch.onnx's to spell, and formats without
    # a kernel are refused before, as is state that is open.
    others = {"fft_fftn", "aten.masked_scatter.default", "fake_quantize", "recode"}
    assert pure - set(LOWERINGS) == others
