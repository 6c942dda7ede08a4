import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import regauge as rg
from regauge import ir
from regauge.backends.profiles import target
from regauge.driver.presets import label, legalized, resolve
from regauge.driver.report import Report
from regauge.ir.interpret import execute
from regauge.passes import FoldAttentionBias, FoldNormAffine, Pass, Prune, Quantize, manager
from regauge.passes.quantization.rounder import Rounder

Equal = Callable[[Any, Any], None]
Passes = dict[str, Callable[[], Pass]]


def test_returns_what_the_model_returned(net: nn.Module, x: Tensor, equal: Equal) -> None:
    art = rg.compile(net, (x,), target="torch", measure=False)
    equal(art(x + 1), net(x + 1))


def test_takes_a_single_tensor_as_args(net: nn.Module, x: Tensor, equal: Equal) -> None:
    equal(rg.compile(net, x, target="torch", measure=False)(x), net(x))


def test_takes_keywords(net: nn.Module, x: Tensor, equal: Equal) -> None:
    bias = torch.ones(4)
    art = rg.compile(net, (x,), {"bias": bias}, target="torch", measure=False)
    equal(art(x, bias=2 * bias), net(x, bias=2 * bias))


def test_takes_an_exported_program_with_its_own_example(
    net: nn.Module, x: Tensor, equal: Equal
) -> None:
    art = rg.compile(torch.export.export(net, (x,)), target="torch")
    assert art.report.errors
    equal(art(x), net(x))


def test_takes_a_graph_without_an_example(net: nn.Module, x: Tensor, equal: Equal) -> None:
    art = rg.compile(rg.trace(net, (x,)), target="torch")
    assert art.report.notes == ["error and latency were not measured"]
    equal(art(x), net(x))


def test_keeps_sizes_that_may_vary(net: nn.Module, x: Tensor, equal: Equal) -> None:
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    art = rg.compile(net, (x,), target="torch", dynamic_shapes=shapes, measure=False)
    equal(art(torch.ones(5, 8)), net(torch.ones(5, 8)))


def test_measures_error_latency_and_size(net: nn.Module, x: Tensor) -> None:
    report = rg.compile(net, (x,), passes=[], target="torch").report
    assert [error.name for error in report.errors] == ["y", "both.0.low", "both.0.high", "both.1"]
    assert all(error.relative_l2 == 0 and error.cosine > 0.999999 for error in report.errors)
    assert report.model.parameters == 8 * 16 + 16 + 16 * 4 + 4
    assert report.model.bytes == report.bytes_after == 4 * report.model.parameters
    assert report.latency is not None and report.latency.low <= report.latency.ratio
    assert report.latency.baseline == "the traced model on torch, without any pass"


def test_a_constant_may_be_left_out_and_must_not_differ(
    net: nn.Module, x: Tensor, equal: Equal
) -> None:
    art = rg.compile(net, (x,), {"double": True}, target="torch", measure=False)
    equal(art(x), net(x, double=True))
    with pytest.raises(ir.InputError) as error:
        art(x, double=False)
    assert str(error.value) == (
        "double: the model was traced with True, got False\n"
        "  do  compile the model again with this value; it is part of what was compiled"
    )


def test_a_positional_argument_may_come_by_name(
    art: rg.Artifact, net: nn.Module, x: Tensor, equal: Equal
) -> None:
    equal(art(x=x), net(x))


def test_a_sole_keyword_may_come_without_its_name(net: nn.Module, x: Tensor, equal: Equal) -> None:
    kwargs = {"x": x, "double": True}
    art = rg.compile(net, kwargs=kwargs, target="torch", measure=False, calibration=[x, {"x": x}])
    equal(art(x), net(x, double=True))


# -- bad calls ----------------------------------------------------------------


def test_a_wrong_shape_at_call_time(art: rg.Artifact) -> None:
    with pytest.raises(ir.InputError) as error:
        art(torch.ones(3, 8))
    assert str(error.value) == (
        "x: expected f32[2, 8], got f32[3, 8]\n  do  trace with dynamic_shapes to let a size vary"
    )


def test_a_wrong_dtype_at_call_time(art: rg.Artifact, x: Tensor) -> None:
    with pytest.raises(ir.InputError, match=r"^x: expected f32\[2, 8\], got f64\[2, 8\]$"):
        art(x.double())


def test_an_unknown_keyword_at_call_time(art: rg.Artifact, x: Tensor) -> None:
    with pytest.raises(ir.InputError, match=r"^the model was traced without the keyword 'z'$"):
        art(x, z=x)


def test_no_argument_at_call_time(art: rg.Artifact) -> None:
    with pytest.raises(ir.InputError) as error:
        art()
    assert str(error.value) == (
        "expected inputs (x: f32[2, 8]), got 0 values in another structure\n"
        "  do  call it as the model was called when it was traced"
    )


# -- bad options --------------------------------------------------------------


def test_an_unknown_target_lists_the_known(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(ir.TargetError) as error:
        rg.compile(net, (x,), target="tpu")
    assert str(error.value) == (
        "there is no target 'tpu'\n"
        "  do  choose one of: onnxruntime, openvino, qnn, xnnpack, ethos-u, litert, tvm, torch, "
        "compressed-tensors, c"
    )


def test_an_option_that_the_target_lacks_lists_those_it_has(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(ir.TargetError) as error:
        rg.compile(net, (x,), options={"tune": 4})
    assert str(error.value) == (
        "target 'onnxruntime' has no option 'tune'\n"
        "  do  choose of its options: threads, half, sparse, providers"
    )


def test_options_reach_the_target(net: nn.Module, x: Tensor) -> None:
    art = rg.compile(net, (x,), passes=[], options={"threads": 1})
    assert vars(art.runner)["threads"] == 1


def test_a_target_that_is_not_installed_says_what_to_install(
    net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regauge.backends import base, profiles

    absent = base.Target("far", "far", ("far_runtime",), "regauge[far]", "nothing")
    monkeypatch.setitem(profiles.TARGETS, "far", absent)
    with pytest.raises(ir.TargetError) as error:
        rg.compile(net, (x,), target="far")
    assert str(error.value) == (
        "target 'far' needs far_runtime, which is not installed\n  do  pip install 'regauge[far]'"
    )


def test_an_unknown_preset_lists_the_known(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(ir.InputError) as error:
        rg.compile(net, (x,), passes="w3a3", target="torch")
    assert error.value.what == "there is no preset or pass 'w3a3'"
    assert error.value.do.startswith("choose one of the presets: exact")


def test_something_that_is_no_pass(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(ir.InputError, match=r"^expected a pass or a name in passes, got a int\n"):
        rg.compile(net, (x,), passes=[cast(Any, 3)], target="torch")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_not_finite(net: nn.Module, x: Tensor, value: str) -> None:
    with torch.no_grad():
        net.get_parameter("second.bias")[1:3] = float(value)
    with pytest.raises(ir.WeightError) as error:
        rg.compile(net, (x,), target="torch")
    assert str(error.value) == (
        f"second.bias: 2 of 4 numbers are not finite ({'NaN' if value == 'nan' else 'infinity'})\n"
        "  at  Net\n"
        "  do  train or load the model again; a step of its training has diverged"
    )


def test_dynamic_shapes_with_a_graph(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(ir.InputError) as error:
        rg.compile(rg.trace(net, (x,)), (x,), target="torch", dynamic_shapes={"x": None})
    assert str(error.value) == (
        "dynamic_shapes is given with a graph, whose shapes are settled\n"
        "  do  give it to regauge.trace"
    )


# -- passes -------------------------------------------------------------------


def test_passes_mix_names_classes_and_values(passes: Passes) -> None:
    from regauge.backends.profiles import target
    from regauge.passes.presets import PRESETS

    place = target("torch")
    exact = tuple(PRESETS["exact"](place))
    last = passes["Honest"]()
    asked: list[Any] = ["exact", passes["Nothing"], last, "exact"]
    assert [p.name for p in resolve(asked, place)] == [
        *(p.name for p in exact), "Nothing", "Honest",
    ]  # fmt: skip
    assert resolve(asked, place)[-1] is last
    assert label(asked) == "exact + Nothing + Honest + exact"
    assert resolve([], place) == () and label([]) == "no pass"


def test_a_pass_that_breaks_its_promise_is_found_out(
    net: nn.Module, x: Tensor, passes: Passes
) -> None:
    with pytest.raises(ir.PromiseError) as error:
        rg.compile(net, (x,), passes=passes["Scale"](), target="torch")
    assert error.value.what.startswith("Scale promised an equal function and changed the outputs")
    assert "first_weight" in error.value.where
    evidence = Path(error.value.do.rpartition(" in ")[2])
    text = evidence.read_text(encoding="utf-8")
    assert text.startswith("Scale: ") and text.count("def graph(") == 2
    shutil.rmtree(evidence.parent)


def test_a_graph_that_a_pass_leaves_as_it_was_is_not_run_again(
    net: nn.Module, x: Tensor, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[ir.Graph] = []

    def counted(graph: ir.Graph, inputs: Any) -> Any:
        runs.append(graph)
        return run_as_traced(graph, inputs)

    run_as_traced = manager.run_as_traced
    monkeypatch.setattr(manager, "run_as_traced", counted)
    found: list[int] = []
    for chosen in ([], [passes["Nothing"]()], [FoldAttentionBias(), passes["Honest"]()]):
        runs.clear()
        report = rg.compile(net, (x,), passes=chosen, target="torch", measure=False).report
        found.append(len(runs))
    assert found == [2, 2, 3]  # the weights' rounding, on two inputs; and the approximate pass
    assert report.passes[0].damage == 0.0


def test_an_approximate_pass_reports_its_damage(net: nn.Module, x: Tensor, passes: Passes) -> None:
    report = rg.compile(net, (x,), passes=passes["Honest"](), target="torch", measure=False).report
    honest = report.passes[-1]
    assert honest.promise == "approximate" and 1e-5 < honest.damage < 1e-2
    assert [remark.site for remark in honest.applied] == ["first_weight"]


def test_an_order_that_breaks_a_promise_says_which_pass_must_move(
    net: nn.Module, x: Tensor, passes: Passes
) -> None:
    with pytest.raises(ir.PassError) as error:
        rg.compile(net, (x,), passes=[passes["Honest"](), passes["Nothing"]()], target="torch")
    assert str(error.value) == (
        "Nothing comes after Honest, but a pass of the stage fold must come before quantize\n"
        "  do  move Nothing before Honest"
    )


def test_an_exact_pass_behind_a_smaller_network_is_checked_against_that(
    net: nn.Module, x: Tensor
) -> None:
    """And not against the model: pruning changed the function, folding must not."""
    prune = Prune(remove=0.5, score="magnitude", recover=False)
    artifact = rg.compile(net, (x,), passes=[prune, "exact"], target="torch", measure=False)
    by_name = {report.name: report for report in artifact.report.passes}
    assert by_name["Prune"].damage > 1e-2
    assert by_name["MergeChains"].promise == "exact" and by_name["MergeChains"].damage < 1e-9
    assert artifact.report.passes[-1].name == "Round"


def test_what_could_not_be_done_is_in_the_report_with_its_reason(
    net: nn.Module, x: Tensor, passes: Passes
) -> None:
    report = rg.compile(net, (x,), passes=passes["Nothing"](), target="torch", measure=False).report
    assert ("Nothing", "linear has no rule", ["linear"]) in report.missed()
    assert "linear has no rule  (linear)" in str(report)


class _Fake(nn.Module):
    """Holds int8 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.ones(4, 8, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.regauge.dequantize(self.codes, self.scale)
        return nn.functional.linear(x, weight)


def test_simulated_arithmetic_is_reported_as_such_and_not_as_a_speed(x: Tensor) -> None:
    report = rg.compile(_Fake().eval(), (x,), passes=[], target="torch").report
    assert report.latency is None and report.errors
    assert report.notes == [
        "arithmetic on codes is simulated on torch: the error is real, "
        "and a latency would say nothing"
    ]


def test_a_call_goes_on_where_it_was_stopped(
    net: nn.Module, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(folder: Path | None, batches: list[Tensor]) -> rg.Artifact:
        passes = [rg.passes.Smooth(), rg.passes.Quantize(least=1)]
        return rg.compile(
            net, (x,), passes=passes, calibration=batches, measure=False, resume=folder
        )

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    batches = [torch.randn(2, 8, generator=torch.Generator().manual_seed(i)) for i in range(40)]
    call(None, batches).save(tmp_path / "wanted")
    with monkeypatch.context() as patch:
        patch.setattr(Rounder, "visit", stop)
        with pytest.raises(KeyboardInterrupt):
            call(tmp_path / "run", batches)
    call(tmp_path / "run", batches).save(tmp_path / "found")
    wanted, found = ((tmp_path / n / "model.onnx").read_bytes() for n in ("wanted", "found"))
    assert found == wanted
    with pytest.raises(ir.InputError, match="a run with other calibration data"):
        call(tmp_path / "run", batches[1:])


def test_a_call_with_a_preset_goes_on_too(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    made = [
        rg.compile(
            net, (x,), passes="w8a8", calibration=[x], measure=False, resume=tmp_path / "run"
        )
        for _ in range(2)
    ]
    first, again = (pytree.tree_leaves(art(x)) for art in made)
    assert all(map(torch.equal, first, again))


def test_what_a_target_lacks_is_rewritten_before_ranges_are_taken() -> None:
    place = replace(target("onnxruntime"), lacks=frozenset({"silu"}))
    chosen = legalized((FoldNormAffine(), Quantize()), place)
    assert [step.name for step in chosen] == ["FoldNormAffine", "Legalize", "Quantize"]
    assert legalized((FoldNormAffine(),), target("onnxruntime")) == (FoldNormAffine(),)


# -- memory -------------------------------------------------------------------


def test_with_released_weights_the_artifact_and_its_errors_are_the_same(
    net: nn.Module, x: Tensor, equal: Equal
) -> None:
    batches = [torch.randn(64, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    for rounding in ("nearest", "gptq"):
        options: dict[str, Any] = {"target": "torch", "calibration": batches}
        step = Quantize(None, weights="int4-g4", least=1, rounding=rounding)
        options |= {"dynamic_shapes": shapes, "passes": ["exact", step]}
        kept = rg.compile(net, (x,), **options)
        module = copy.deepcopy(net)
        freed = rg.compile(module, (x,), **options, release_weights=True)
        equal(freed(x), kept(x))
        assert freed.report.errors == kept.report.errors
        damages = [[made.damage for made in art.report.passes] for art in (freed, kept)]
        assert damages[0] == damages[1]
        with pytest.raises(ir.InputError, match="has no weights any more"):
            module(x)


def test_a_graph_that_gave_its_weights_says_so(net: nn.Module, x: Tensor, equal: Equal) -> None:
    graph = rg.trace(net, (x,))
    art = rg.compile(graph, (x,), target="torch", release_weights=True)
    equal(art(x), net(x))
    assert art.report.latency is None and "latency was not measured" in art.report.notes[0]
    with pytest.raises(ir.GraphError, match="the weights of this graph were released"):
        graph.run(x)


def test_a_graph_in_float64_is_no_second_copy(net: nn.Module, x: Tensor) -> None:
    graph = rg.trace(net, (x,))
    wide = ir.astype(graph, torch.float64)
    assert not any(isinstance(value, Tensor) for value in wide.store.tensors.values())
    back = ir.astype(wide, torch.float32)
    for name in graph.params:
        assert wide.store[name].dtype == torch.float64
        assert back.store[name] is graph.store[name]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_differences_do_not_depend_on_how_many_numbers_are_at_hand(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "CHUNK", chunk)
    wanted = torch.tensor([[3.0, 4.0, -torch.inf], [0.0, torch.nan, 12.0]])
    found = wanted.clone()
    assert manager.difference([found], [wanted]) == 0
    found[0, 0] = 3.26
    assert manager.difference([found], [wanted]) == pytest.approx(0.02)
    found[1, 1] = 0.0
    assert manager.difference([found], [wanted]) == torch.inf


def test_differences_of_complex_numbers_count_both_parts() -> None:
    wanted = torch.tensor([3 + 4j, -12j])
    assert manager.difference([wanted + 0.26j], [wanted]) == pytest.approx(0.02 * 2**0.5)


class Wrong:
    """A runner that gives everything half as large again."""

    bytes, notes = 0, ()

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def __call__(self, inputs: list[Any]) -> tuple[Any, ...]:
        return tuple(1.5 * value for value in execute(self.graph, inputs))


def test_nothing_is_timed_on_what_is_simulated(
    net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wrong, "simulates", True, raising=False)
    monkeypatch.setattr("regauge.backends.torch_eager.lower", lambda graph, **_: Wrong(graph))
    with pytest.warns(RuntimeWarning, match="computes something else"):
        report = rg.compile(net, (x,), target="torch").report
    assert report.latency is None and report.errors
    assert any("what runs on torch is simulated here" in note for note in report.notes)


def test_a_target_that_computes_something_else_is_named(
    net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = rg.compile(net, (x,), target="torch").report
    assert report.faithful == 0
    assert "torch and its graph round 0 apart" in str(report)
    monkeypatch.setattr("regauge.backends.torch_eager.lower", lambda graph, **_: Wrong(graph))
    words = "torch computes something else than the graph that it was given: relative L2 0.5"
    with pytest.warns(RuntimeWarning, match=words):
        report = rg.compile(net, (x,), target="torch").report
    assert report.faithful == pytest.approx(0.5)
    assert any(note.startswith(words) for note in report.notes)
    assert Report.from_dict(report.to_dict()).faithful == report.faithful
