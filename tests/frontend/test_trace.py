"""What a user may hand over, and what is refused, where and why."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regauge.frontend import trace
from regauge.ir import GraphError, InputError, TraceError, WeightError, astype

HERE = Path(__file__).name


class Net(nn.Module):
    """A layer, a dropout and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor, *, shift: Tensor | None = None) -> Tensor:
        y = self.dropout(self.linear(x)).relu() * self.scale
        return y if shift is None else y + shift


class Wrapped(Net):
    """Computes under context managers, and in place."""

    def forward(self, x: Tensor, *, shift: Tensor | None = None) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            y = self.linear(x)
        y.relu_()
        y += 1
        return y


class Branch(Net):
    """Looks at the data."""

    def forward(self, x: Tensor, *, shift: Tensor | None = None) -> Tensor:
        y = self.linear(x)
        if y.sum() > 0:  # the line
            return y
        return -y


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def test_a_module(x: Tensor) -> None:
    model = Net().eval()
    graph = trace(model, (x,))
    assert [node.op for node in graph.nodes] == ["linear", "relu", "mul"]
    torch.testing.assert_close(graph.run(x), model(x))
    assert f"{HERE}:" in graph["linear"].where and "forward" in graph["linear"].where


def test_layers_without_a_line_of_the_users_have_their_path() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    graph = trace(model.eval(), (torch.randn(2, 4),))
    places = [node.where for node in graph.nodes]
    assert places == ["module 0, Linear", "module 1.0, ReLU", "module 1.1, Linear"]


def test_one_tensor_stands_for_a_tuple_of_one(x: Tensor) -> None:
    model = Net().eval()
    assert str(trace(model, x)) == str(trace(model, (x,)))  # type: ignore[arg-type]


def test_keywords(x: Tensor) -> None:
    model = Net().eval()
    graph = trace(model, (x,), {"shift": x})
    torch.testing.assert_close(graph.run(x, shift=x), model(x, shift=x))


def test_an_exported_program(x: Tensor) -> None:
    model = Net().eval()
    program = torch.export.export(model, (x,))
    assert str(trace(program)) == str(trace(model, (x,)))
    with warnings.catch_warnings():  # of PyTorch, about its own internals
        warnings.simplefilter("ignore", FutureWarning)
        decomposed = program.run_decompositions()  # the core ATen ops, with transposed weights
    assert [node.op for node in trace(decomposed).nodes] == ["linear", "relu", "mul"]


def test_wrappers_and_in_place_ops_are_gone(x: Tensor) -> None:
    model = Wrapped().eval()
    graph = trace(model, (x,))
    assert [node.op for node in graph.nodes] == ["linear", "relu", "add"]
    torch.testing.assert_close(graph.run(x), model(x))


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param({"x": {0: torch.export.Dim("batch", max=64)}, "shift": None}, id="by name"),
        pytest.param(({0: torch.export.Dim("batch", max=64)}, None), id="by place"),
        pytest.param({"x": (torch.export.Dim("batch", max=64), None), "shift": None}, id="tuples"),
    ],
)
def test_sizes_have_the_users_names(x: Tensor, shapes: Any) -> None:
    graph = trace(Net().eval(), (x,), {"shift": x[0]}, dynamic_shapes=shapes)
    assert str(graph.inputs[0]) == "x: f32[batch, 4]"
    assert graph.symbols["batch"][1] == 64
    assert graph.run(torch.zeros(5, 4), shift=x[0]).shape == (5, 4)


def test_sizes_without_names_keep_pytorchs(x: Tensor) -> None:
    graph = trace(Net().eval(), (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    (symbol,) = graph.symbols
    assert str(graph.inputs[0]) == f"x: f32[{symbol}, 4]"


def test_training_mode_is_refused(x: Tensor) -> None:
    with pytest.raises(TraceError, match=r"the Net is in training mode\n  do  call model.eval\(\)"):
        trace(Net().train(), (x,))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_leak_of_random_slopes_has_the_mean_one_in_evaluation(inplace: bool, x: Tensor) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.RReLU(0.1, 0.4, inplace=inplace)).eval()
    graph = trace(model, (x,))
    assert [node.op for node in graph.nodes] == ["linear", "leaky_relu"]
    torch.testing.assert_close(graph.run(x), model(x), rtol=0, atol=0)


def test_a_leak_that_is_random_in_evaluation_is_refused(x: Tensor) -> None:
    class Random(Net):
        def forward(self, x: Tensor, *, shift: Tensor | None = None) -> Tensor:
            return nn.functional.rrelu(self.linear(x), training=True)

    with pytest.raises(GraphError, match=r"rrelu.* draws random numbers"):
        trace(Random().eval(), (x,))


def test_dropout_in_evaluation_is_refused() -> None:
    class Attention(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.1)

    with pytest.raises(GraphError, match="drops weights at random") as error:
        trace(Attention().eval(), (torch.randn(1, 2, 3, 4),))
    assert HERE in error.value.where


def test_what_cannot_be_traced_names_the_users_line(x: Tensor) -> None:
    with pytest.raises(TraceError) as error:
        trace(Branch().eval(), (x,))
    line = next(
        i for i, row in enumerate(Path(__file__).read_text().splitlines(), 1) if "# the line" in row
    )
    assert f"{HERE}:{line} " in error.value.where
    assert "data-dependent" in error.value.what
    assert "torch.where" in error.value.do
    assert error.value.__cause__ is not None


def test_a_branch_with_graphs_of_its_own_is_refused(x: Tensor) -> None:
    class Cond(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    with pytest.raises(TraceError, match="the model calls cond") as error:
        trace(Cond().eval(), (x,))
    assert HERE in error.value.where


def test_state_that_changes_is_refused(x: Tensor) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(TraceError, match="the model changes count when it runs"):
        trace(Counter().eval(), (x,))


def test_state_that_is_set_to_what_it_is_does_not_change(x: Tensor) -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            self.table = self.table.to(x.device)
            return torch.relu_(x + self.table)

    model = Placed().eval()
    x = torch.randn(2, 4)
    assert torch.equal(trace(model, (x,)).run(x), model(x))


def test_an_assertion_about_data_is_left_out() -> None:
    class Checked(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            torch._check(lengths.max().item() <= x.shape[1])  # pyright: ignore[reportPrivateUsage]
            return x * lengths[:, None]

    x, lengths = torch.randn(2, 4), torch.tensor([3, 4])
    graph = trace(Checked().eval(), (x, lengths))
    assert [node.op for node in graph.nodes] == ["unsqueeze", "mul"]
    assert torch.equal(graph.run(x, lengths), x * lengths[:, None])


def test_numbers_in_the_code_are_the_decimals_that_it_says(
    exact_outputs: Callable[..., list[Tensor]], x: Tensor
) -> None:
    class Literals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("learned", torch.tensor(0.7))

        def forward(self, x: Tensor) -> Tensor:
            y = x * x.new_tensor(0.1) + torch.tensor([0.2, 3.0, -1e-7, 1 / 3])
            return y + self.get_buffer("learned")

    model = Literals().eval()
    graph = trace(model, (x,))
    assert graph.nodes[0].args[1] == 0.1  # and not 0.10000000149
    assert graph.nodes[-1].args[1] == torch.tensor(0.7).item()  # of float32, as the buffer is
    assert torch.equal(graph.run(x), model(x))
    found = astype(graph, torch.float64).run(x.double())
    torch.testing.assert_close(found[:, :3], exact_outputs(model, (x,))[0][:, :3])
    within = trace(nn.Sequential(nn.Identity(), model).eval(), (x,))
    assert within.nodes[0].args[1] == 0.1  # whichever module's code says it


def test_a_choice_between_sizes_is_a_number() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            size = torch.sym_ite(x.shape[0] > 5, x.shape[0], 5 * x.shape[0])
            return torch.nn.functional.pad(x, (0, size))

    dims = {"x": {0: torch.export.Dim("n", min=2, max=9)}}
    graph = trace(Padded().eval(), (torch.randn(3, 2),), dynamic_shapes=dims)
    assert "int_where" in {node.op for node in graph.nodes}
    for n, width in ((4, 22), (7, 9)):
        assert graph.run(torch.ones(n, 2)).shape == (n, width)


def test_inputs_that_do_not_fit_are_refused(x: Tensor) -> None:
    with pytest.raises(InputError, match="the example inputs do not fit the model"):
        trace(Net().eval(), (x, x))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("exported", [False, True])
def test_weights_that_are_no_numbers_are_refused(x: Tensor, value: float, exported: bool) -> None:
    model = Net().eval()
    with torch.no_grad():
        model.linear.weight[0, :3] = value
    program = torch.export.export(model, (x,)) if exported else model
    with pytest.raises(WeightError, match=r"linear\.weight: 3 of 16 numbers are not finite"):
        trace(program, () if exported else (x,))


def test_a_mask_of_minus_infinity_in_a_buffer_is_fine(x: Tensor) -> None:
    model = Net().eval()
    model.register_buffer("scale", torch.tensor([0.0, 1.0, 2.0, -float("inf")]))
    torch.testing.assert_close(trace(model, (x,)).run(x), model(x), equal_nan=True)


def test_released_weights_are_the_graph_s_alone() -> None:
    module, x = Net().eval(), torch.ones(2, 4)
    with torch.no_grad():
        wanted = module(x)
    weight = weakref.ref(module.linear.weight)
    graph = trace(module, (x,), release_weights=True)
    torch.testing.assert_close(graph.run(x), wanted)
    assert weight() is None and module.linear.weight.device.type == "meta"
    with pytest.raises(InputError, match="has no weights any more"):
        module(x)


def test_an_exported_program_keeps_its_weights() -> None:
    program = torch.export.export(Net().eval(), (torch.ones(2, 4),))
    with pytest.raises(InputError, match="cannot be released"):
        trace(program, release_weights=True)


def test_what_pytorch_cannot_trace_once_more_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + 1).mul_(2)

    def broken(self: object, *_: object) -> None:
        raise AttributeError("'int' object has no attribute 'meta'")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", broken)
    with pytest.raises(TraceError) as caught:
        trace(InPlace().eval(), torch.ones(2))  # type: ignore[arg-type]
    assert caught.value.what == (
        "torch.export captured the model and cannot trace it once more without its in-place ops: "
        "AttributeError: 'int' object has no attribute 'meta'"
    )


def test_a_selection_of_one_operand_is_the_places_of_what_is_true(x: Tensor) -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            (rows,) = torch.where(x.sum(1) > 0)
            return x.index_add(0, rows, x[rows])

    graph = trace(Chosen().eval(), (x,))
    torch.testing.assert_close(graph.to_module()(x), Chosen()(x))
    assert "aten.where.default" in {node.op for node in graph.nodes}
