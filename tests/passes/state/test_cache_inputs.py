"""The inputs of keys and values as state: a decoder from nothing, chunk by chunk."""

from typing import Any

import pytest
import torch
from small_models import zoo_model

import regauge as rg
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, InputError, TensorType, astype
from regauge.ir.interpret import execute
from regauge.ir.state import entered
from regauge.ir.types import evaluate
from regauge.passes import CacheInputs, QuantizeCache

CHUNK = 4


@pytest.fixture(scope="module")
def decoder() -> tuple[Graph, torch.Tensor, torch.Tensor]:
    """A decoder with grouped queries and rotary embeddings that takes four more tokens, ids of
    three chunks, and their logits in float64."""
    model = zoo_model("llama").model.double()
    ids = torch.randint(3, 99, (2, 3 * CHUNK), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids, use_cache=True)
    past = torch.export.Dim.AUTO
    pairs = [({2: past}, {2: past})] * len(whole.past_key_values.layers)
    kwargs = {
        "input_ids": ids[:, :CHUNK],
        "past_key_values": whole.past_key_values,
        "use_cache": True,
    }
    shapes = {"input_ids": None, "past_key_values": pairs, "use_cache": None}
    return rg.trace(model, (), kwargs, dynamic_shapes=shapes), ids, whole.logits


def from_nothing(graph: Graph, ids: torch.Tensor, run: Any = None) -> torch.Tensor:
    """The logits of all chunks, each with the state that the one before gave back."""
    state: list[Any] = []
    for node in graph.inputs[1:-1]:
        assert isinstance(node.type, TensorType)
        shape = [evaluate(size, dict.fromkeys(graph.symbols, 0)) for size in node.type.shape]
        state.append(torch.zeros(shape, dtype=node.type.dtype))
    found: list[torch.Tensor] = []
    for chunk in ids.split(CHUNK, 1):
        inputs = [chunk, *state, True]
        logits, *state = execute(graph, inputs) if run is None else run(inputs)
        found.append(logits)
    return torch.cat(found, 1)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("latent", [False, True])
def test_unrounded_inputs_are_as_good_as_keys_and_values(
    decoder: tuple[Graph, torch.Tensor, torch.Tensor], latent: bool
) -> None:
    graph, ids, wanted = decoder
    new, remarks = CacheInputs(None, latent=latent)(graph)
    assert [remark.applied for remark in remarks] == [True] * 4
    assert error(from_nothing(new, ids), wanted) < 1e-9


@pytest.mark.parametrize("latent", [False, True])
def test_the_error_goes_with_the_bits(
    decoder: tuple[Graph, torch.Tensor, torch.Tensor], latent: bool
) -> None:
    graph, ids, wanted = decoder
    errors = {
        bits: error(from_nothing(CacheInputs(bits, latent=latent)(graph)[0], ids), wanted)
        for bits in (2, 4, 8, 16)
    }
    assert errors[16] < 3e-5 < errors[8] < errors[4] < errors[2]


def test_one_value_a_layer_is_kept_and_the_angles_once(
    decoder: tuple[Graph, torch.Tensor, torch.Tensor],
) -> None:
    graph = decoder[0]
    plain, _ = CacheInputs(4, group=16)(graph)
    names = [node.name.removeprefix("past_key_values_") for node in plain.inputs[1:-1]]
    parts = [f"inputs_{part}" for part in ("codes", "scale", "low")]
    assert names == [f"0_0_{p}" for p in (*parts, "besides_0_rows", "besides_1_rows")] + [
        f"1_0_{p}" for p in parts
    ]
    assert plain.inputs[1].dtype == torch.uint8 and plain.inputs[1].shape[-1] == 16
    latent, _ = CacheInputs(8, latent=True)(graph)
    codes = [node.shape[-1] for node in latent.inputs if node.name.endswith("codes")]
    assert codes == [16] * 4  # as wide as keys and values are


def test_onnxruntime_keeps_inputs(decoder: tuple[Graph, torch.Tensor, torch.Tensor]) -> None:
    graph, ids, wanted = decoder
    new, _ = CacheInputs(8)(astype(graph, torch.float32))
    found = from_nothing(new, ids, lower(new, threads=1))
    assert error(found.double(), wanted) < 0.02
    assert error(found.double(), from_nothing(new, ids).double()) < 0.01


def test_a_state_of_keys_and_values_is_refused(
    decoder: tuple[Graph, torch.Tensor, torch.Tensor],
) -> None:
    new, _ = CacheInputs(8)(decoder[0])
    with pytest.raises(InputError, match="cannot be told from that of the model"):
        entered(new, [])
    with pytest.raises(InputError, match="in another form already"):
        CacheInputs(8)(QuantizeCache(8, 8)(decoder[0])[0])


def test_compile_says_that_it_cannot_compare() -> None:
    model = zoo_model("llama").model
    ids = torch.randint(3, 99, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model(ids[:, :8], use_cache=True).past_key_values
    kwargs = {"input_ids": ids[:, 8:], "past_key_values": cache, "use_cache": True}
    art = rg.compile(model, (), kwargs, passes=[CacheInputs(8)], target="torch")
    assert art.report.passes[-1].damage != art.report.passes[-1].damage  # not a number
    assert not art.report.errors and "cannot be told from it" in art.report.notes[0]
    assert "CacheInputs" in str(art.report) and art.report.json()
