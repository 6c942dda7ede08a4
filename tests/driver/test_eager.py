"""A report says where the traced graph is not the model."""

from typing import Any

import torch
from torch import Tensor, nn

import regauge as rg


class Otherwise(nn.Module):
    """Another function where it is not being traced, which writes to its buffer and its input."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(8, 4), how
        self.calls = nn.Buffer(torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        if torch.compiler.is_exporting() or not self.how:
            return y
        if self.how == "stop":
            raise ValueError("not today\nnor tomorrow")
        self.calls.add_(1.0)
        x.zero_()
        return y[:1] if self.how == "cut" else (y, y) if self.how == "two" else 2 * y


def notes(model: nn.Module, *args: Tensor, **kwargs: Tensor) -> str:
    report = rg.compile(model.eval(), args, kwargs, passes=[], target="torch").report
    return "\n".join(note for note in report.notes if "model" in note)


def test_of_a_graph_that_is_the_model_nothing_is_said(x: Tensor) -> None:
    assert notes(Otherwise(), x) == ""


def test_other_results_are_said_and_nothing_is_left_changed(x: Tensor) -> None:
    model, before = Otherwise("double"), x.clone()
    assert "something else than the model: linear (relative L2 0.5)" in notes(model, x)
    assert float(model.calls) == 0.0
    assert torch.equal(x, before)


def test_other_shapes_are_said(x: Tensor) -> None:
    assert "something else than the model: linear (relative L2 inf)" in notes(Otherwise("cut"), x)
    assert "1 values on the example and the model 2" in notes(Otherwise("two"), x)


def test_a_model_that_does_not_run_is_said(x: Tensor) -> None:
    says = notes(Otherwise("stop"), x)
    assert says.endswith("which does not run on the example: ValueError: not today")


def test_a_path_of_evaluation_alone_is_found() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    padding = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])
    found = notes(
        nn.TransformerEncoder(layer, 1), torch.randn(2, 6, 16), src_key_padding_mask=padding
    )
    assert "nn.TransformerEncoder with padding" in found
