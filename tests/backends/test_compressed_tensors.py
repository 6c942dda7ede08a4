"""Checkpoints in the format compressed-tensors: bytes by an oracle, and the programs that load
them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from small_models import zoo_model
from torch import nn

import regauge as rg
from regauge.ir import ArtifactError, TargetError
from regauge.passes import (
    CenterResidual,
    FoldAttentionBias,
    FoldNormAffine,
    JoinReaders,
    Pass,
    Quantize,
)

TARGET = "compressed-tensors"


def nearest(weights: str, activations: Any = None, **options: Any) -> Quantize:
    settings: dict[str, Any] = {"rounding": "nearest", "correct_bias": False, "least": 0, **options}
    return Quantize(activations, weights, **settings)


def compiled(name: str, *passes: Pass, **options: Any) -> tuple[rg.Artifact, Any]:
    zoo = zoo_model(name)
    art = rg.compile(
        zoo.model,
        zoo.args,
        zoo.kwargs,
        passes=list(passes),
        target=TARGET,
        measure=False,
        **options,
    )
    return art, zoo


def logits(found: Any) -> torch.Tensor:
    return found["logits"] if isinstance(found, dict) else found.logits


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config = json.loads((folder / "config.json").read_text())
    return load_file(folder / "model.safetensors"), config


def unpacked(words: torch.Tensor, bits: int, count: int) -> list[list[int]]:
    """Rows of int32 as signed codes, in plain Python: the format's own description."""
    rows: list[list[int]] = []
    for row in words.tolist():
        whole = [word & 0xFFFFFFFF for word in row]
        codes = [whole[i * bits // 32] >> (i * bits % 32) & (2**bits - 1) for i in range(count)]
        rows.append([code - 2 ** (bits - 1) for code in codes])
    return rows


@pytest.mark.parametrize(
    ("weights", "bits", "group", "symmetric"),
    [
        ("int4-g16", 4, 16, True),
        ("int4-g16-asym", 4, 16, False),
        ("int8-g8-asym", 8, 8, False),
        ("int3-g16-asym", 4, 16, False),
        ("int6-channel", 8, None, True),
    ],
)
def test_the_bytes_are_those_that_the_format_describes(
    weights: str, bits: int, group: int | None, symmetric: bool, tmp_path: Path
) -> None:
    art, _ = compiled("llama", nearest(weights, embeddings=False))
    tensors, config = read(art.save(tmp_path / "out"))
    settings = config["quantization_config"]
    (scheme,) = settings["config_groups"].values()
    assert settings["format"] == "pack-quantized" and scheme["targets"] == ["Linear"]
    assert scheme["weights"]["num_bits"] == bits and scheme["weights"]["group_size"] == group
    assert scheme["weights"]["symmetric"] is symmetric and scheme["input_activations"] is None
    assert settings["ignore"] == []
    name = "model.layers.1.mlp.down_proj"
    outputs, inputs = tensors[f"{name}.weight_shape"].tolist()
    assert (outputs, inputs) == (32, 48)
    codes = unpacked(tensors[f"{name}.weight_packed"], bits, inputs)
    scale = tensors[f"{name}.weight_scale"].double()
    zero = [[0] * scale.shape[1]] * outputs
    if not symmetric:
        packed = tensors[f"{name}.weight_zero_point"]
        assert packed.shape == (outputs * bits // 32, scale.shape[1])
        zero = torch.tensor(unpacked(packed.T.contiguous(), bits, outputs)).T.tolist()
    size = group or inputs
    found = [
        [(codes[o][i] - zero[o][i // size]) * float(scale[o, i // size]) for i in range(inputs)]
        for o in range(outputs)
    ]
    node = art.graph["model_layers_1_mlp_down_proj_weight_value"]
    parts = tuple(None if arg is None else art.graph.value(arg) for arg in node.args)
    wanted = torch.ops.regauge.decode(*parts, **node.attrs)
    torch.testing.assert_close(torch.tensor(found), wanted, rtol=1e-6, atol=0)


def test_columns_that_do_not_fill_a_word_are_filled_up_with_zero_bits() -> None:
    from regauge.backends.compressed_tensors.layout import words

    packed = words(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 15]]), 4)
    assert packed.dtype == torch.int32
    assert [word & 0xFFFFFFFF for word in packed[0].tolist()] == [0x87654321, 0x0000000F]


def test_codes_of_weights_and_activations(tmp_path: Path) -> None:
    art, _ = compiled("llama", nearest("int8-channel", "dynamic", embeddings=False))
    tensors, config = read(art.save(tmp_path / "out"))
    settings = config["quantization_config"]
    assert settings["format"] == "int-quantized"
    (scheme,) = settings["config_groups"].values()
    assert scheme["input_activations"] == {
        "num_bits": 8,
        "type": "int",
        "strategy": "token",
        "symmetric": True,
        "dynamic": True,
    }
    name = "model.layers.0.self_attn.q_proj"
    value = tensors[f"{name}.weight"] * tensors[f"{name}.weight_scale"]
    node = art.graph["model_layers_0_self_attn_q_proj_weight_value"]
    codes, scale = (art.graph.value(arg) for arg in node.args)
    assert tensors[f"{name}.weight"].dtype == torch.int8
    torch.testing.assert_close(value, codes * scale, rtol=0, atol=0)


def test_static_activations_keep_their_scale_and_zero_point(tmp_path: Path) -> None:
    zoo = zoo_model("llama")
    art, _ = compiled(
        "llama",
        nearest("int8-channel", "static", embeddings=False),
        calibration=[{**zoo.kwargs, "input_ids": zoo.args[0]}],
    )
    tensors, config = read(art.save(tmp_path / "out"))
    (scheme,) = config["quantization_config"]["config_groups"].values()
    assert scheme["input_activations"]["dynamic"] is False
    zero = tensors["lm_head.input_zero_point"]
    (codes,) = [n for n in art.graph.nodes if n.op == "linear" and n is art.graph.nodes[-1]]
    stored = codes.args[0].args[2]
    assert zero.dtype == torch.int8 and int(zero) == int(art.graph.value(stored)) - 128


def test_exact_transformations_alone_make_a_plain_checkpoint(tmp_path: Path) -> None:
    for index, (name, passes) in enumerate(
        {"llama": [FoldNormAffine()], "opt": [FoldAttentionBias()], "gpt2": []}.items()
    ):
        art, zoo = compiled(name, *passes)
        folder = art.save(tmp_path / str(index))
        assert "quantization_config" not in read(folder)[1]
        model = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            wanted = zoo.model(*zoo.args, **zoo.kwargs).logits
            found = model(*zoo.args).logits
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        if passes:
            assert art.report.passes[0].applied


def test_what_is_folded_into_norms_and_biases_is_written(tmp_path: Path) -> None:
    tensors, _ = read(compiled("llama", FoldNormAffine())[0].save(tmp_path / "llama"))
    assert torch.equal(tensors["model.layers.0.input_layernorm.weight"], torch.ones(32))
    art, _ = compiled("gemma", FoldNormAffine())  # which multiplies by 1 + w
    tensors, _ = read(art.save(tmp_path / "gemma"))
    assert torch.equal(tensors["model.layers.0.input_layernorm.weight"], torch.zeros(32))
    tensors, _ = read(compiled("opt", FoldAttentionBias())[0].save(tmp_path / "opt"))
    assert not tensors["model.decoder.layers.0.self_attn.k_proj.bias"].any()


def test_tied_tensors_are_one_in_the_file_until_a_fold_parts_them(tmp_path: Path) -> None:
    art, zoo = compiled("gemma", nearest("int4-g16"))  # the table too, which both read
    tensors, config = read(art.save(tmp_path / "tied"))
    assert "lm_head.weight" not in tensors and config["tie_word_embeddings"]
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    table = tensors["model.embed_tokens.weight"]
    assert table.dtype == torch.float32 and not torch.equal(table, zoo.model.lm_head.weight)
    art, zoo = compiled("gemma", FoldNormAffine(untie=True))
    tensors, config = read(art.save(tmp_path / "apart"))
    assert not config["tie_word_embeddings"]
    assert torch.equal(tensors["model.embed_tokens.weight"], zoo.model.lm_head.weight)
    assert not torch.equal(tensors["lm_head.weight"], zoo.model.lm_head.weight)


def test_the_presets_of_weights_are_written_as_they_are(tmp_path: Path) -> None:
    zoo = zoo_model("opt")
    art = rg.compile(zoo.model, zoo.args, zoo.kwargs, passes="w8", target=TARGET, measure=False)
    _, config = read(art.save(tmp_path / "out"))
    assert config["quantization_config"]["format"] == "pack-quantized"
    assert [record.name for record in art.report.passes] == [
        "FoldAttentionBias",
        "Round",
        "Quantize",
    ]


def test_bits_are_chosen_of_those_that_checkpoints_have(tmp_path: Path) -> None:
    zoo = zoo_model("opt")
    art = rg.compile(
        zoo.model,
        zoo.args,
        zoo.kwargs,
        passes="auto:8",
        calibration=[{**zoo.kwargs, "input_ids": zoo.args[0]}],
        target=TARGET,
        measure=False,
    )
    decided = art.report.passes[-1].remarks[0].data
    assert decided["bits"] <= 8
    _, config = read(art.save(tmp_path / "out"))
    groups = config["quantization_config"]["config_groups"].values()
    found = {(group["weights"]["num_bits"], group["weights"]["group_size"]) for group in groups}
    assert found == {
        tuple(map(int, re.findall(r"\d+", name))) for name in decided["choices"].values()
    }


def test_the_graph_computes_with_the_scales_that_are_written() -> None:
    zoo = zoo_model("llama")
    art = rg.compile(
        zoo.model.bfloat16(),
        zoo.args,
        zoo.kwargs,
        passes=[nearest("int4-g16", embeddings=False)],
        target=TARGET,
        measure=False,
    )
    runner: Any = art.runner
    name = "model.layers.0.mlp.up_proj"
    scale = runner.tensors[f"{name}.weight_scale"]
    kept = runner.graph.store["model_layers_0_mlp_up_proj_weight_scale"].view(torch.float32)
    assert scale.dtype == torch.bfloat16
    assert torch.equal(kept.flatten(), scale.float().flatten())


# -- what there is no place for ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step", "words"),
    [
        ("opt", CenterResidual(), ["what CenterResidual made", "rms_norm", "leave out CenterRes"]),
        ("llama", JoinReaders(), ["what JoinReaders made", "leave out JoinReaders"]),
        ("gpt2", nearest("int4-g16"), ["attn.c_attn.weight is in codes", "no torch.nn.Linear"]),
    ],
)
def test_what_the_models_code_has_no_place_for_is_refused(
    name: str, step: Pass, words: list[str]
) -> None:
    with pytest.raises(TargetError) as error:
        compiled(name, step)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_bias_that_the_model_lacks_is_refused() -> None:
    zoo = zoo_model("llama")
    graph = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    linear = next(node for node in graph.nodes if node.op == "linear")
    graph.give(linear, 2, torch.ones(32), name="extra")
    with pytest.raises(TargetError, match=r"its bias is extra, and nothing in the model's own"):
        rg.compile(graph, zoo.args, zoo.kwargs, passes=[], target=TARGET)


def test_a_model_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(TargetError, match="not traced from a Hugging Face model"):
        rg.compile(nn.Linear(4, 4).eval(), torch.ones(2, 4), passes=[], target=TARGET)


@pytest.mark.parametrize("weights", ["nf4-g16", "mxfp4", "int4-g16-pad", "fp8-e4m3-g16"])
def test_formats_without_a_layout_are_refused_before_anything_runs(weights: str) -> None:
    with pytest.raises(TargetError, match=r"choose one of its formats .* int4-g128"):
        compiled("llama", nearest(weights))


def test_the_folder_is_loaded_by_others(tmp_path: Path) -> None:
    art, _ = compiled("llama")
    with pytest.raises(ArtifactError, match="holds the model's weights, not its graph"):
        rg.load(art.save(tmp_path / "out"))


# -- the programs that load it -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("llama", "int4-g16"),
        ("llama", "int4-g16-asym"),
        ("llama", "int8-channel"),
        ("llama", "fp8-e4m3-channel"),
        ("gemma", "int3-g16"),
        ("opt", "int8-g8"),
        ("qwen3", "int5-channel"),
    ],
)
def test_transformers_computes_what_the_graph_computes(
    name: str, weights: str, tmp_path: Path
) -> None:
    package = pytest.importorskip("compressed_tensors")
    release = tuple(int(part) for part in package.__version__.split(".")[:2])
    if "asym" in weights and (0, 18) <= release <= (0, 20):
        pytest.skip("these releases do not load the packed zero points that they write")
    art, zoo = compiled(name, nearest(weights))
    model = hf.AutoModelForCausalLM.from_pretrained(art.save(tmp_path / "out")).eval()
    with torch.no_grad():
        found = model(*zoo.args).logits
    torch.testing.assert_close(found, logits(art(*zoo.args, **zoo.kwargs)), rtol=1e-4, atol=1e-5)


def test_transformers_quantizes_activations_as_well(tmp_path: Path) -> None:
    """Static scales are equal. A dynamic one is peak / 127 here and in vLLM's kernels, and
    peak / 127.5 in the package."""
    pytest.importorskip("compressed_tensors")
    zoo = zoo_model("llama")
    data = [{**zoo.kwargs, "input_ids": zoo.args[0]}]
    for kind, tolerance in (("static", 1e-5), ("dynamic", 0.02)):
        art, _ = compiled(
            "llama", nearest("int8-channel", kind, embeddings=False), calibration=data
        )
        folder = art.save(tmp_path / kind)
        model = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            found = model(*zoo.args).logits
        wanted = logits(art(*zoo.args, **zoo.kwargs))
        assert float((found - wanted).norm() / wanted.norm()) < tolerance
