"""Blocks that read the same value: as good as the iteration says, exact in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import filled
from small_models import ZooModel

import regauge as rg
from regauge.ir import Graph, InputError, astype
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, FoldNormAffine, JoinReaders, MergeEqual
from regauge.passes.manager import difference
from regauge.passes.structure.depth.parallelize import Parallelize

BLOCK = """
    n{i}: f64[5, 6] = rms_norm(h{i}, normalized_shape=(6,), eps=0.1)
    f{i}: f64[5, 9] = linear(n{i}, a{i})
    g{i}: f64[5, 9] = tanh(f{i})
    d{i}: f64[5, 6] = linear(g{i}, b{i})
    h{j}: f64[5, 6] = add(h{i}, d{i})"""


def stack(count: int = 4) -> tuple[Graph, list[torch.Tensor]]:
    params = ", ".join(f"a{i}: f64[9, 6], b{i}: f64[6, 9]" for i in range(count))
    body = "".join(BLOCK.format(i=i, j=i + 1) for i in range(count))
    text = f"""
def graph(x: f64[5, 6], *, w: f64[6, 6], {params}, o: f64[2, 6]):
    h0: f64[5, 6] = linear(x, w){body}
    y: f64[5, 2] = linear(h{count}, o)
    return y
"""
    graph, inputs = filled(text)
    for name in graph.params:
        if name[0] == "b":
            graph.store[name] = 0.3 * graph.store[name]
    return graph, inputs


def branch(graph: Graph, i: int, value: torch.Tensor) -> torch.Tensor:
    norm = torch.nn.functional.rms_norm(value, (6,), eps=0.1)
    return torch.tanh(norm @ graph.store[f"a{i}"].T) @ graph.store[f"b{i}"].T


def test_one_iteration_reads_the_entry_everywhere() -> None:
    graph, inputs = stack(4)
    found, remarks = Parallelize(chunk=2)(graph, Context(inputs=inputs))
    h = inputs[0] @ graph.store["w"].T
    for pair in (0, 2):
        h = h + branch(graph, pair, h) + branch(graph, pair + 1, h)
    torch.testing.assert_close(execute(found, inputs)[0], h @ graph.store["o"].T)
    assert len([remark for remark in remarks if remark.applied]) == 2


def test_two_iterations_of_three_blocks() -> None:
    graph, inputs = stack(3)
    found, _ = Parallelize(chunk=3, iterations=2)(graph, Context(inputs=inputs))
    h0 = inputs[0] @ graph.store["w"].T
    h1 = h0 + branch(graph, 0, h0)
    h2 = h1 + branch(graph, 1, h0)  # of the first iteration
    h = h1 + branch(graph, 1, h1) + branch(graph, 2, h2)
    torch.testing.assert_close(execute(found, inputs)[0], h @ graph.store["o"].T)


@pytest.mark.parametrize("chunk", [2, 3, 4])
def test_as_many_iterations_as_blocks_are_exact(chunk: int) -> None:
    graph, inputs = stack(4)
    found, _ = Parallelize(chunk=chunk, iterations=chunk)(graph, Context(inputs=inputs))
    torch.testing.assert_close(execute(found, inputs), execute(graph, inputs))


def test_each_iteration_comes_closer() -> None:
    graph, inputs = stack(4)
    wanted = execute(graph, inputs)
    errors = [
        difference(
            execute(Parallelize(4, iterations=i)(graph, Context(inputs=inputs))[0], inputs), wanted
        )
        for i in (1, 2, 3, 4)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize(("iterations", "blocks"), [(1, 4), (2, 6), (4, 4)])
def test_what_is_exact_or_needed_no_more_is_not_computed_again(
    iterations: int, blocks: int
) -> None:
    graph, inputs = stack(4)
    found, _ = Parallelize(4, iterations=iterations)(graph, Context(inputs=inputs))
    assert sum(node.op == "linear" for node in found.nodes) == 2 + 2 * blocks


def test_two_blocks_on_one_value_become_one_of_twice_the_width() -> None:
    graph, inputs = stack(2)
    found, _ = Parallelize()(graph, Context(inputs=inputs))
    assert sum(node.op == "rms_norm" for node in found.nodes) == 2
    wanted = execute(found, inputs)
    for step in (MergeEqual(), JoinReaders()):
        found, _ = step(found, Context(inputs=inputs))
    assert sum(node.op == "rms_norm" for node in found.nodes) == 1
    assert any(node.op == "linear" and node.shape == (5, 18) for node in found.nodes)
    torch.testing.assert_close(execute(found, inputs), wanted)


def test_a_chunk_with_a_layer_that_is_protected_stays() -> None:
    graph, inputs = stack(4)
    found, remarks = Parallelize(protect=("a1",))(graph, Context(inputs=inputs))
    assert [(r.applied, r.site, r.text) for r in remarks if not r.applied] == [
        (False, "h0", "a1 is protected")
    ]
    second, _ = Parallelize(start=2)(graph, Context(inputs=inputs))
    assert str(found) == str(second)


@pytest.mark.parametrize("family", ["llama", "gpt2", "vit"])
def test_the_blocks_of_a_transformer(family: str, zoo_model: Callable[[str], ZooModel]) -> None:
    zoo = zoo_model(family)
    single = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    inputs = [
        value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for value in flatten(single, zoo.args, zoo.kwargs)
    ]
    graph = astype(single, torch.float64)
    graph, _ = FoldNormAffine().attempt(graph, Context(inputs=inputs))
    wanted = execute(graph, inputs)
    exact, _ = Parallelize(iterations=2)(graph, Context(inputs=inputs))
    assert difference(execute(exact, inputs), wanted) < 1e-9
    near, _ = Parallelize()(graph, Context(inputs=inputs))
    assert difference(execute(near, inputs), wanted) > 1e-9


@pytest.mark.parametrize(
    "options",
    [{"chunk": 1}, {"iterations": 3}, {"iterations": 0}, {"start": -1}, {"stop": -1}],
    ids=str,
)
def test_numbers_that_make_no_sense(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"{name}=.* is not what Parallelize takes"):
        Parallelize(**options)


def test_a_model_without_repeated_blocks_has_none_to_run_in_parallel() -> None:
    graph, inputs = stack(1)
    same, (remark,) = Parallelize().attempt(graph, Context(inputs=inputs))
    assert str(same) == str(graph)
    assert remark.text == "0 blocks that repeat one another are no chunk of 2"
