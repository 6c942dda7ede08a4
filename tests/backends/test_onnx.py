"""The emitter as a whole: names, sizes, bytes, outputs, and ops without a lowering."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import onnx
import pytest
import torch

from regauge.backends.onnx import emit, save
from regauge.backends.onnxruntime import load, lower
from regauge.backends.torch_eager import lower as eager
from regauge.ir import Graph, TargetError, TensorType, parse
from regauge.ir.interpret import execute

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]
Check: TypeAlias = Callable[..., None]

MLP = (
    "x: f32[n, t, 8], *, w: f32[6, 8], c: f32[6]",
    "h = linear(x, w, c)",
    "s = sym_size(x, dim=0)",
    "y = reshape(h, shape=(s, -1))",
)


def test_names_and_sizes_are_ours(graph_of: Make) -> None:
    graph = graph_of(
        "x: f32[n, t, 8], *, w: f32[6, 8], c: f32[6]", "h = linear(x, w, c)", "y = relu(h)"
    )
    model = emit(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == ["y"]
    sizes = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert sizes == ["n", "t", 6]
    assert [node.output[0] for node in model.graph.node] == ["h.0", "h", "y"]
    assert model.opset_import[0].version == 23


def test_every_size_of_batch_and_length_runs(graph_of: Make, check_runs: Check) -> None:
    for n, t in ((1, 1), (2, 7), (5, 3)):
        check_runs(graph_of(*MLP), n=n, t=t)


def test_the_same_graph_gives_the_same_bytes(graph_of: Make) -> None:
    first, second = (emit(graph_of(*MLP)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_graph_is_not_changed(graph_of: Make) -> None:
    graph = graph_of(
        "x: f32[n, 8], *, w: i8[6, 8], w_scale: f32[6, 1]",
        "d = dequantize(w, w_scale)",
        "y = linear(x, d)",
    )
    before = str(graph)
    emit(graph)
    assert str(graph) == before


def test_nothing_is_stored_that_nobody_reads(graph_of: Make) -> None:
    names = [tensor.name for tensor in emit(graph_of(*MLP)).graph.initializer]
    assert sorted(names) == ["c", "constant.0", "w.transposed"]


def test_outputs_keep_their_places() -> None:
    graph = parse(
        """
        def graph(x: f32[n, 4], k: int, *, w: f32[4]):
            assert 0 <= n
            y: f32[n, 4] = clone(x)
            z: f32[n, 4] = relu(y)
            s: int = sym_size(x, dim=0)
            p: bool[n, 4] = gt(x, 0)
            m: int = int_mul(s, k)
            return z, None, y, x, z, 3, s, w, p, m
        """
    )
    graph.store["w"] = torch.arange(4.0)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    found, wanted = lower(graph)([x, 5]), execute(graph, [x, 5])
    assert [type(value) for value in found] == [type(value) for value in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_inputs_that_nobody_reads_are_taken() -> None:
    graph = parse(
        "def graph(x: f32[2], unused: f32[3], flag: bool):\n    y: f32[2] = relu(x)\n    return y"
    )
    (y,) = lower(graph)([torch.tensor([-1.0, 2.0]), torch.zeros(3), True])
    assert y.tolist() == [0.0, 2.0]


def test_inputs_of_any_layout(graph_of: Make) -> None:
    graph = graph_of("x: f32[n, t]", "y = relu(x)")
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).T
    assert torch.equal(lower(graph)([x])[0], x.relu())


# -- files -----------------------------------------------------------------------------------------


def test_a_saved_model_runs_again(graph_of: Make, inputs_of: Feed, tmp_path: Path) -> None:
    graph = graph_of(*MLP)
    runner, x = lower(graph), inputs_of(graph)
    runner.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert runner.bytes == (tmp_path / "model.onnx").stat().st_size
    again = load(tmp_path, graph)
    assert torch.equal(again(x)[0], runner(x)[0]) and again.bytes == runner.bytes
    again.save(tmp_path / "..")
    assert (tmp_path / ".." / "model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_large_weights_lie_beside_the_model(
    graph_of: Make, inputs_of: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["regauge.backends.onnx.emit"], "_EXTERNAL", 16)
    graph = graph_of("x: f32[n, 64], *, w: f32[64, 64]", "y = linear(x, w)")
    runner, x = lower(graph), inputs_of(graph)
    runner.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.weights"]
    assert runner.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    torch.testing.assert_close(load(tmp_path, graph)(x), execute(graph, x), rtol=1e-5, atol=1e-5)


def test_saving_writes_over_what_was_there(graph_of: Make, tmp_path: Path) -> None:
    model = emit(graph_of(*MLP))
    assert (
        save(model, tmp_path / "a.onnx")
        == save(model, tmp_path / "a.onnx")
        == [tmp_path / "a.onnx"]
    )


def test_a_damaged_model_is_refused(graph_of: Make, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(TargetError, match=r"^ONNX Runtime .* does not take the model: ") as error:
        load(tmp_path, graph_of(*MLP))
    assert str(tmp_path / "model.onnx") in str(error.value)


def test_double_precision_without_kernels_is_said(graph_of: Make) -> None:
    graph = graph_of(
        "x: f64[n, 8], *, scale: f64[]", "codes: u8[n, 8] = quantize(x, scale, dtype=u8)"
    )
    with pytest.raises(TargetError, match=r"compile model.float\(\)") as error:
        lower(graph)
    assert "codes: u8[n, 8] = quantize(x, scale" in str(error.value)


def test_where_a_run_stops_is_said(graph_of: Make) -> None:
    graph = graph_of("x: i64[n], *, w: f32[6, 8]", "first = embedding(w, x)", "y = relu(first)")
    with pytest.raises(TargetError, match=r"^ONNX Runtime stopped: .* out of data bounds") as error:
        lower(graph)([torch.tensor([7])])
    assert "first: f32[n, 8] = embedding(w, x)" in str(error.value)


# -- ops without a lowering ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param("x: f32[n, t]", ("y = aten.asinh.default(x)",), id="one input"),
        pytest.param(
            "x: f32[n, t], i: i64[n, t]",
            ("y = aten.scatter_add.default(x, i, x, dim=1)",),
            id="attributes in the middle",
        ),
        pytest.param(
            "x: f32[n, 4, 9, 8]", ("y = adaptive_avg_pool2d(x, output_size=(2, 3))",), id="declined"
        ),
        pytest.param(
            "x: f32[n, t]",
            (
                "s = sym_size(x, dim=1)",
                "k = int_sub(s, 2)",
                "y: f32[n, t-2] = aten.narrow.default(x, dim=1, start=1, length=k)",
            ),
            id="a symbolic number",
        ),
    ],
)
def test_torch_exports_what_we_do_not(
    head: str, body: tuple[str, ...], graph_of: Make, check_runs: Check
) -> None:
    check_runs(graph_of(head, *body))


def test_an_op_that_nobody_exports_is_named() -> None:
    graph = Graph()
    x = graph.input("x", TensorType(torch.float32, (4,)))
    y = graph.add(
        "aten._nested_from_padded.default", x, type=x.type, name="y", where="model.py:7 in forward"
    )
    graph.returns(y)
    with pytest.raises(TargetError) as error:
        emit(graph)
    lines = str(error.value).splitlines()
    assert lines[0].startswith(
        "aten._nested_from_padded.default has no ONNX form: neither ours nor torch.onnx's ("
    )
    assert lines[1:] == [
        "  at  y: f32[4] = aten._nested_from_padded.default(x)",
        "      model.py:7 in forward",
        "  do  write it with other PyTorch functions, or compile for target='torch'",
    ]


@pytest.mark.parametrize(
    "body",
    [
        ("y: f32[n, 9] = abs(s)",),
        ("k: c64[n, 9] = mul(s, s)", "y: f32[n, 16] = aten.fft_irfft.default(k)"),
        ("k: c64[n, 4] = slice(s, dim=1, start=0, end=4)", "y: f32[n, 4] = abs(k)"),
        ("k: c64[9, n] = transpose(s, dim0=0, dim1=1)", "y: f32[9, n] = abs(k)"),
        ("k: c64[n] = sum(s, dim=(1,))", "y: f32[n] = abs(k)"),
        ("k: c64[n, 18] = cat((s, s), dim=1)", "y: f32[n, 18] = abs(k)"),
        ("k: c64[n, 3, 3] = reshape(s, shape=(-1, 3, 3))", "y: f32[n, 3, 3] = abs(k)"),
    ],
)
def test_complex_numbers_are_pairs(
    body: tuple[str, ...], graph_of: Make, check_runs: Check
) -> None:
    """What is done with a spectrum is done with its numbers, not with their parts."""
    spectrum = ("t: f32[n, 16] = mul(x, 0.1)", "s: c64[n, 9] = aten.fft_rfft.default(t)")
    check_runs(graph_of("x: f32[n, 16]", *spectrum, *body))


def test_a_complex_weight_is_named() -> None:
    graph = parse("""
        def graph(x: f32[4], *, w: c64[4]):
            y: c64[4] = mul(x, w)
            z: f32[4] = abs(y)
            return z
    """)
    graph.store["w"] = torch.ones(4, dtype=torch.complex64)
    with pytest.raises(TargetError) as error:
        emit(graph)
    assert str(error.value).splitlines()[:2] == [
        "mul reads w: ONNX has no torch.complex64",
        "  at  y: c64[4] = mul(x, w)",
    ]


def test_a_tuple_is_no_output() -> None:
    graph = parse("def graph(x: f32[4]):\n    p: (f32[2], i64[2]) = topk(x, k=2)\n    return p")
    with pytest.raises(
        TargetError, match=r"^p is \(f32\[2\], i64\[2\]\): ONNX takes tensors only\n"
    ):
        emit(graph)


def test_a_dtype_without_a_name_in_onnx_is_refused() -> None:
    graph = parse("def graph(x: c64[4]):\n    y: c64[4] = neg(x)\n    return y")
    with pytest.raises(TargetError, match=r"^ONNX has no torch.complex64, which x is\n"):
        emit(graph)


# -- the eager target ------------------------------------------------------------------------------


def test_the_eager_target_runs_the_graph(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*MLP)
    x = inputs_of(graph)
    assert torch.equal(eager(graph)(x)[0], execute(graph, x)[0])


def test_a_split_at_places_that_are_data() -> None:
    graph = parse("""
        def graph(x: f32[5, 3], n: i64[2]):
            a: i64[] = select(n, dim=0, index=0)
            b: i64[] = select(n, dim=0, index=1)
            i: int = aten.item.default(a)
            j: int = aten.item.default(b)
            s: (f32[u, 3], f32[v, 3]) = aten.split_with_sizes.default(x, split_sizes=(i, j))
            y: f32[v, 3] = getitem(s, 1)
            z: f32[3] = sum(y, dim=(0,))
            return z
    """)
    inputs = [torch.randn(5, 3), torch.tensor([2, 3])]
    torch.testing.assert_close(lower(graph, threads=1)(inputs), execute(graph, inputs))


@pytest.mark.parametrize("where", ["aten.where.default", "aten.nonzero_numpy.default"])
def test_rows_that_data_choose(where: str) -> None:
    graph = parse(f"""
        def graph(x: f32[5, 3], chosen: bool[5]):
            p: (i64[u],) = {where}(chosen)
            i: i64[u] = getitem(p, 0)
            y: f32[u, 3] = index(x, (i,))
            z: f32[3] = sum(y, dim=(0,))
            return z
    """)
    inputs = [torch.randn(5, 3), torch.tensor([True, False, True, True, False])]
    torch.testing.assert_close(lower(graph, threads=1)(inputs), execute(graph, inputs))
