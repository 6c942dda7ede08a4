"""The text of a model in C, and where its values lie."""

import random
from collections.abc import Callable

import pytest
import torch

from regauge.backends.c import source
from regauge.codegen.c.kernels import FILES, KERNELS, sources
from regauge.codegen.c.memory import plan
from regauge.codegen.c.program import Buffer, Step, Value
from regauge.codegen.c.render import number
from regauge.ir import parse

SUM = """
def graph(x: f32[1, 2, 3, 3], y: f32[1, 2, 3, 3], *, s: f32[], z: u8[], t: f32[], w: u8[],
          r: f32[], v: u8[]):
    p = quantize(x, s, z, dtype=u8)
    q = quantize(y, t, w, dtype=u8)
    a = dequantize(p, s, z)
    b = dequantize(q, t, w)
    c = add(a, b)
    d = relu(c)
    k = quantize(d, r, v, dtype=u8)
    f = dequantize(k, r, v)
    m = mean(f, dim=(2, 3))
    return m
"""


def test_a_small_model(golden: Callable[[str, str], None]) -> None:
    graph = parse(SUM)
    for name, scale in (("s", 0.02), ("t", 0.03), ("r", 0.05)):
        graph.store[name] = torch.tensor(scale)
    for name, zero in (("z", 128), ("w", 100), ("v", 0)):
        graph.store[name] = torch.tensor(zero, dtype=torch.uint8)
    made = source(graph)
    golden("sum.c", made.model)
    golden("sum.h", made.header)
    assert len(made.model.splitlines()) <= 60 and (made.constants, made.arena) == (0, 40)


def test_the_same_graph_gives_the_same_text() -> None:
    text = "def graph(x: f32[2, 3], *, w: f32[4, 3]):\n    y = linear(x, w)\n    return y"
    graph = parse(text)
    graph.store["w"] = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert source(graph) == source(graph)


def test_a_kernel_comes_after_what_it_calls() -> None:
    texts = "\n".join(sources(["conv_s8"]))
    order = [texts.index(f"{name}(") for name in ("dot_s8", "patch_s8", "to_s8", "conv_s8")]
    assert order[-1] == max(order) and texts.index("struct window {") < min(order[1], order[-1])
    assert "uint8_t" not in texts and "_u8" not in texts


def test_kernels_are_in_the_package() -> None:
    assert {"conv_u8", "linear_f32", "window"} <= FILES.keys() < KERNELS.keys()


@pytest.mark.parametrize("value", [0.1, 1.0, -3e-12, 123456789.0, 1e30, 0.007843137718737125])
def test_a_literal_is_the_number_itself(value: float) -> None:
    single = torch.tensor(value).item()
    text = number(single)
    assert torch.tensor(float(text[:-1])).item() == single and text.endswith("f")
    assert "." in text or "e" in text


# -- memory ---------------------------------------------------------------------------------------


def value(name: str, size: int) -> Value:
    return Value(name, "u8", (size,), Buffer(size))


def step(*read: Value, into: Value, over: Value | None = None) -> Step:
    return Step("k", (*read, into), (into,), over)


def test_what_is_read_for_the_last_time_makes_room() -> None:
    a, b, c, d = (value(name, size) for name, size in zip("abcd", (100, 40, 100, 7), strict=True))
    steps = [step(into=a), step(a, into=b), step(b, into=c), step(c, into=d)]
    assert plan(steps) == 140
    assert (a.buffer.offset, c.buffer.offset, b.buffer.offset) == (0, 0, 100)


def test_a_result_lies_where_its_operand_lay_if_nothing_else_reads_that() -> None:
    a, b, c = (value(name, 100) for name in "abc")
    assert plan([step(into=a), step(a, into=b, over=a), step(b, into=c)]) == 200
    assert a.buffer.offset == b.buffer.offset
    a, b, c = (value(name, 100) for name in "abc")
    assert plan([step(into=a), step(a, into=b, over=a), step(a, b, into=c, over=a)]) == 200
    assert a.buffer.offset == c.buffer.offset != b.buffer.offset


def test_arrays_of_the_caller_take_no_room() -> None:
    a, b = value("a", 100), value("b", 100)
    a.buffer.array = "a"
    assert plan([step(a, into=b, over=a)]) == 100


@pytest.mark.parametrize("seed", range(20))
def test_no_two_values_share_bytes_while_both_are_needed(seed: int) -> None:
    draw = random.Random(seed)
    values = [value(f"v{i}", draw.choice((1, 6, 64, 64, 100))) for i in range(30)]
    steps: list[Step] = []
    for place, new in enumerate(values):
        read = draw.sample(values[max(0, place - 6) : place], min(place, draw.randint(0, 3)))
        over = read[0] if read and draw.random() < 0.5 else None
        steps.append(step(*read, into=new, over=over))
    size = plan(steps)
    owner: dict[int, str] = {}
    for at in steps:  # run it: each byte must still be of the value that is read
        for read in at.values[:-1]:
            places = range(read.buffer.offset, read.buffer.offset + read.count)
            assert {owner[place] for place in places} == {read.name}
        new = at.writes[0].buffer
        for place in range(new.offset, new.offset + new.bytes):
            owner[place] = at.writes[0].name
        assert new.offset % 4 == 0 and new.offset + new.bytes <= size
        others = [read for read in at.values[:-1] if read is not at.over]
        for read in others:  # what is not read position by position outlives the write
            assert owner[read.buffer.offset] == read.name


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    graph = parse("""
        def graph(x: f32[2, 3], X: f32[2, 3]):
            y: f32[2, 3] = add(x, X)
            return y
        """)
    header = source(graph).header
    assert "MODEL_X_COUNT 6" in header and "MODEL_X_1_COUNT 6" in header
