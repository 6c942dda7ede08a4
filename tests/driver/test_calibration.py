from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge import ir
from regauge.driver.calibration import read, regrouped
from regauge.driver.convention import constants
from regauge.ir.interpret import flatten
from regauge.passes import Pass
from regauge.passes.fitting import Fitter

Passes = dict[str, Callable[[], Pass]]

WRAP = "pass a list of inputs, each a tensor, a tuple for args, or a dict for kwargs"


@pytest.fixture
def graph(net: nn.Module, x: Tensor) -> ir.Graph:
    return rg.trace(net, (x,))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}])
def test_a_batch_may_be_a_tensor_a_tuple_or_a_dict(
    graph: ir.Graph, x: Tensor, wrap: Callable[[Tensor], Any]
) -> None:
    found = read((wrap(x) for _ in range(3)), graph, {})
    assert len(found) == 3 and all(len(flat) == 1 and flat[0] is x for flat in found)


def test_a_constant_keyword_may_be_left_out(net: nn.Module, x: Tensor) -> None:
    graph = rg.trace(net, (x,), {"double": True})
    flat = flatten(graph, (x,), {"double": True})
    known = constants(graph, flat)
    assert known == {"double": True}
    assert read([x], graph, known) == [flat]


def test_none_is_no_batch(graph: ir.Graph) -> None:
    assert read(None, graph, {}) == []


@pytest.mark.parametrize(
    ("calibration", "what"),
    [
        pytest.param(
            torch.ones(2, 8), "calibration is one Tensor, not an iterable of inputs", id="tensor"
        ),
        pytest.param({"x": 1}, "calibration is one dict, not an iterable of inputs", id="dict"),
        pytest.param(7, "calibration is a int, which cannot be iterated over", id="number"),
    ],
)
def test_one_input_in_place_of_many(graph: ir.Graph, calibration: Any, what: str) -> None:
    with pytest.raises(ir.InputError) as error:
        read(calibration, graph, {})
    assert str(error.value) == f"{what}\n  do  {WRAP}"


def test_an_empty_iterable(graph: ir.Graph) -> None:
    with pytest.raises(ir.InputError) as error:
        read(iter([]), graph, {})
    assert str(error.value) == (
        f"calibration holds no batch\n  do  {WRAP}; a generator can be used only once"
    )


NAN = torch.tensor([[float("nan")] * 8, [0.0] * 8])
INFINITY = torch.tensor([[float("inf")] + [0.0] * 7] * 2)
CLEAN = "\n  do  clean the data; a float mask takes torch.finfo(dtype).min in place of -inf"
VARY = "\n  do  trace with dynamic_shapes to let a size vary"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        pytest.param(NAN, "x: 8 of 16 numbers are not finite (NaN)" + CLEAN, id="nan"),
        pytest.param(
            INFINITY, "x: 2 of 16 numbers are not finite (infinity)" + CLEAN, id="infinity"
        ),
        pytest.param(torch.ones(3, 8), "x: expected f32[2, 8], got f32[3, 8]" + VARY, id="shape"),
        pytest.param(
            torch.ones(2, 8, dtype=torch.int64), "x: expected f32[2, 8], got i64[2, 8]", id="dtype"
        ),
        pytest.param("text", "x: expected a tensor f32[2, 8], got a str", id="not a tensor"),
        pytest.param(
            {"x": torch.ones(2, 8), "z": 1},
            "the model was traced without the keyword 'z'",
            id="unknown keyword",
        ),
        pytest.param(
            (torch.ones(2, 8), torch.ones(2, 8)),
            "expected inputs (x: f32[2, 8]), got 2 values in another structure\n"
            "  do  call it as the model was called when it was traced",
            id="signature",
        ),
    ],
)
def test_a_bad_batch_is_named(graph: ir.Graph, x: Tensor, batch: Any, message: str) -> None:
    with pytest.raises(ir.InputError) as error:
        read([x, batch], graph, {})
    assert str(error.value) == f"calibration batch 1: {message}"


def test_compile_checks_calibration_before_any_pass_runs(
    net: nn.Module, x: Tensor, passes: Passes
) -> None:
    with pytest.raises(ir.InputError, match=r"^calibration batch 0: x: 8 of 16 numbers"):
        rg.compile(net, (x,), passes=passes["Scale"](), calibration=[NAN], target="torch")


SHAPES = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}


def test_results_do_not_depend_on_how_batches_were_cut(net: nn.Module) -> None:
    data = torch.randn(22, 8, generator=torch.Generator().manual_seed(0))
    found: list[dict[str, Tensor]] = []
    for size in (22, 5, 1):
        art = rg.compile(
            net,
            (data[:2],),
            passes=[rg.passes.Smooth(), rg.passes.Reconstruct(least=1, fitter=Fitter(steps=4))],
            calibration=data.split(size),
            target="torch",
            dynamic_shapes=SHAPES,
            measure=False,
        )
        assert any(node.op == "quantize" for node in art.graph.nodes)
        found.append({name: art.graph.store[name] for name in art.graph.params})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


def test_batches_are_cut_anew(net: nn.Module) -> None:
    graph = rg.trace(net, (torch.ones(2, 8),), dynamic_shapes=SHAPES)
    data = torch.arange(22 * 8.0).reshape(22, 8)
    found = regrouped(graph, [[part] for part in data.split(5)])
    assert [len(batch[0]) for batch in found] == [8, 8, 6]
    assert torch.equal(torch.cat([batch[0] for batch in found]), data)


class Mixing(nn.Module):
    """Examples that depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Flat(nn.Module):
    """An output of another number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten()


@pytest.mark.parametrize("kind", [Mixing, Flat])
def test_batches_that_are_more_than_their_examples_stay(kind: type[nn.Module]) -> None:
    graph = rg.trace(kind().eval(), (torch.ones(2, 8),), dynamic_shapes=SHAPES)
    batches = [[part] for part in torch.randn(10, 8).split(5)]
    assert regrouped(graph, batches) is batches


def test_batches_of_a_fixed_size_stay(graph: ir.Graph, x: Tensor) -> None:
    batches = [[x], [x + 1]]
    assert regrouped(graph, batches) is batches
