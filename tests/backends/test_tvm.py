"""TVM on the CPU, where it is installed: every lowering computes what the interpreter computes."""

import json
import shutil
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import small_models
import torch
from op_cases import CASES
from torch import nn
from torch.utils import _pytree as pytree

import regauge as rg
from regauge.backends.profiles import target
from regauge.backends.tvm.build import prepared
from regauge.backends.tvm.emit import emit
from regauge.backends.tvm.processor import host
from regauge.backends.tvm.runner import TvmRunner, lower
from regauge.frontend import trace
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute, flatten
from regauge.passes.manager import difference

pytest.importorskip("tvm")

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]

DECLINED = {"index, by a mask"}  # how large the result is, its data says


@pytest.mark.parametrize("name", [name for name in CASES if name not in DECLINED])
def test_computes_what_the_interpreter_computes(name: str, graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*CASES[name])
    inputs = inputs_of(graph)
    found = target("tvm").lower(graph)(inputs)
    torch.testing.assert_close(found, execute(graph, inputs), rtol=2e-5, atol=2e-6, equal_nan=True)


def test_sizes_may_vary(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(
        "x: f32[n, t, 8], *, w: f32[6, 8], c: f32[6]",
        "a: f32[n, t, 6] = linear(x, w, c)",
        "h = transpose(a, dim0=1, dim1=2)",
        "s: f32[n, 6, 6] = matmul(h, a)",
        "y: f32[n, 36] = reshape(s, shape=(-1, 36))",
    )
    runner = target("tvm").lower(graph)
    for sizes in ({}, {"n": 1, "t": 7}, {"n": 4, "t": 1}):
        inputs = inputs_of(graph, **sizes)
        torch.testing.assert_close(runner(inputs), execute(graph, inputs), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "resnet"])
def test_families_run(name: str) -> None:
    made = small_models.zoo_model(name)
    graph = trace(made.model, made.args, made.kwargs)
    inputs = flatten(graph, made.args, made.kwargs)
    with torch.no_grad():
        wanted = execute(graph, inputs)
    assert difference(target("tvm").lower(graph)(inputs), wanted) < 2e-6


@pytest.mark.parametrize("layer", [nn.LSTM(6, 4, bidirectional=True), nn.GRU(6, 8), nn.RNN(6, 8)])
def test_recurrent_layers_run_step_by_step(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 2, 6)
    art = rg.compile(layer.eval(), (x,), target="tvm", measure=False)
    with torch.no_grad():
        wanted = pytree.tree_leaves(layer(x))
    for found, want in zip(pytree.tree_leaves(art(x)), wanted, strict=True):
        torch.testing.assert_close(found, want)


def test_a_sum_of_four_is_no_dot_of_codes(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of("x: f32[2, 4], *, w: f32[16, 4]", "y = linear(x, w)")
    inputs = inputs_of(graph)
    torch.testing.assert_close(target("tvm").lower(graph)(inputs), execute(graph, inputs))


def test_convolutions_in_a_row_keep_their_channels_last(graph_of: Make, inputs_of: Feed) -> None:
    """One step to that order, and one back from it."""
    graph = graph_of(
        "x: f32[2, 3, 8, 8], *, v: f32[16, 3, 3, 3], c: f32[16], u: f32[16, 16, 3, 3], d: f32[16]",
        "a = conv2d(x, v, c, padding=(1, 1))",
        "r = relu(a)",
        "p = max_pool2d(r, kernel_size=(2, 2), stride=(2, 2))",
        "b = conv2d(p, u, d, padding=(1, 1))",
        "y = add(b, p)",
    )
    runner, inputs = lower(graph), inputs_of(graph)
    torch.testing.assert_close(runner(inputs), execute(graph, inputs), rtol=2e-5, atol=2e-5)
    module = prepared(emit(graph).module, host())
    assert str(module).count("R.call_tir(cls.transpose") == 2


def test_it_is_saved_and_loaded(graph_of: Make, inputs_of: Feed, tmp_path: Path) -> None:
    graph = graph_of(
        "x: f32[n, 8], *, v: f32[6, 8], u: f32[5, 6], c: f32[6]",
        "a: f32[n, 6] = linear(x, v, c)",
        "y: f32[n, 5] = linear(a, u)",
    )
    runner, inputs = target("tvm").lower(graph), inputs_of(graph)
    assert runner.bytes == 4 * (48 + 30 + 6)
    runner.save(tmp_path)
    files = {"model.so", "module.json", "weights.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == files
    loaded = target("tvm").load(tmp_path, graph)
    torch.testing.assert_close(loaded(inputs), runner(inputs), rtol=0, atol=0)


def test_values_may_lie_anywhere(graph_of: Make, inputs_of: Feed, tmp_path: Path) -> None:
    """Inputs that are parts of others, and weights as a file has them."""
    graph = graph_of(
        "x: f32[16, 32], *, v: f32[48, 32], u: f32[48, 48]", "a = linear(x, v)", "y = linear(a, u)"
    )
    runner, (x,) = target("tvm").lower(graph), inputs_of(graph)
    runner.save(tmp_path)
    shifted = torch.cat([torch.zeros(1), x.flatten()])[1:].reshape(x.shape)
    assert shifted.data_ptr() % 64 == 4
    for other in (runner, target("tvm").load(tmp_path, graph)):
        torch.testing.assert_close(other([shifted]), execute(graph, [x]), rtol=2e-5, atol=2e-5)


def test_a_missing_linker_is_named(
    graph_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = target("tvm").lower(graph_of("x: f32[4]", "y = relu(x)"))

    def nothing(program: str) -> Any:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(TargetError, match=r"links a library with one of c\+\+, g\+\+") as caught:
        runner.save(tmp_path)
    assert "apt-get install g++" in str(caught.value)


def test_an_op_without_a_lowering_is_named_with_its_line(graph_of: Make) -> None:
    graph = graph_of("x: f32[4]", "y = aten.lgamma.default(x)")
    graph.nodes[0].where = "model.py:3 in forward"
    with pytest.raises(TargetError) as caught:
        target("tvm").lower(graph)
    assert str(caught.value) == (
        "target 'tvm' has no lowering for aten.lgamma.default\n"
        "  at  y: f32[4] = aten.lgamma.default(x)\n"
        "      model.py:3 in forward\n"
        "  do  write it with other PyTorch functions, or compile for target='onnxruntime' or "
        "target='torch'"
    )


def test_a_form_that_is_not_covered_is_named(graph_of: Make) -> None:
    with pytest.raises(TargetError, match="no lowering for index by a mask"):
        target("tvm").lower(graph_of(*CASES["index, by a mask"]))


def test_tuning_is_kept_and_gives_the_same_code_again(
    graph_of: Make, inputs_of: Feed, tmp_path: Path
) -> None:
    pytest.importorskip("xgboost")
    from regauge.backends.tvm.tuning import FILES, Records

    steps: list[int] = []

    def progress(sequence: Iterable[int], description: str) -> Generator[int]:
        for step in sequence:
            steps.append(step)
            yield step

    graph = graph_of("x: f32[16, 32], *, w: f32[48, 32]", "a = linear(x, w)", "y = relu(a)")
    runner = target("tvm").lower(graph, tune=4, progress=progress)
    inputs = inputs_of(graph)
    assert isinstance(runner, TvmRunner)
    torch.testing.assert_close(runner(inputs), execute(graph, inputs), rtol=2e-5, atol=2e-5)
    assert runner.records is not None
    assert 1 <= runner.records.count <= 16
    assert len(steps) == len(runner.records.records.splitlines())
    (first, *others) = (json.loads(row)[1][0] for row in runner.records.records.splitlines())
    assert others and first not in others  # the default schedule is timed before what is searched
    assert runner.notes == (f"tuned by MetaSchedule: {runner.records.count} schedules were timed",)
    runner.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= set(FILES)
    assert Records.within(tmp_path) == runner.records
    again = lower(graph, tuned=str(tmp_path))
    assert again.notes == (
        f"{runner.records.count} schedules were timed when {tmp_path} was tuned",
    )
    torch.testing.assert_close(again(inputs), runner(inputs), rtol=0, atol=0)


def test_what_is_not_tuned_says_so(graph_of: Make) -> None:
    (note,) = target("tvm").lower(graph_of("x: f32[4]", "y = relu(x)")).notes
    assert note.startswith("not tuned: every function has its default schedule")


def test_symbolic_sizes_are_not_tuned(graph_of: Make) -> None:
    with pytest.raises(
        TargetError, match=r"tunes for sizes that are numbers, and x is f32\[n, 8\]"
    ):
        target("tvm").lower(graph_of("x: f32[n, 8]", "y = relu(x)"), tune=4)


def test_a_decoder_goes_on_from_its_caches() -> None:
    """Where a size is an argument of one function and a size of another's, caches begin empty."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    ids = torch.randint(0, 100, (2, 5))
    art = rg.compile(model.eval(), ids, cache=True, target="tvm", measure=False)
    wanted = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(art.generate(ids, max_new_tokens=6), wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tune": -1}, "times a number of schedules, and tune is -1"),
        ({"tune": "lots"}, "times a number of schedules, and tune is 'lots'"),
        ({"arch": "sm_80"}, "compiles for this processor, and arch is 'sm_80', of a GPU"),
        ({"device": "cuda", "arch": "sm_1"}, "knows no architecture 'sm_1'"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: dict[str, Any], words: str, graph_of: Make
) -> None:
    with pytest.raises(TargetError, match=words):
        lower(graph_of("x: f32[4]", "y = relu(x)"), **options)


def test_tuning_without_a_linker_is_refused(
    graph_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(program: str) -> Any:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(TargetError, match=r"links a library with one of c\+\+, g\+\+"):
        lower(graph_of("x: f32[4]", "y = relu(x)"), tune=4)
