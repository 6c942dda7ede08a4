"""What is compared: a trained model, data to calibrate on, other data to judge by, a measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
import zoo

import regauge as rg

Run = Callable[[list[Any]], list[torch.Tensor]]


@dataclass
class Task:
    """A model with its data.

    Attributes:
        kwargs: The example call, by name; also the shape that is timed.
        calibration: Calls of the same form.
        quality: The measure of something that runs: flat inputs to flat outputs.
        pipelines: What of ours is compared besides presets, by name.
    """

    title: str
    model: torch.nn.Module
    kwargs: dict[str, Any]
    calibration: list[dict[str, Any]]
    quality: Callable[[Run], float]
    measure: str
    workload: str
    protocol: str
    presets: tuple[str, ...] = ("exact", "w8a8", "w8a8-dynamic", "w8")
    pipelines: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def timed(self) -> list[Any]:
        return list(self.kwargs.values())


def minilm() -> Task:
    model, tokenizer = zoo.minilm()
    calibration = zoo.text_windows(tokenizer, 32, 128, "calibration").split(8)
    evaluation = zoo.text_windows(tokenizer, 32, 128, "evaluation").split(8)
    with torch.no_grad():
        wanted = torch.cat([model(input_ids=ids).last_hidden_state for ids in evaluation])

    def quality(run: Run) -> float:
        return zoo.relative_l2(torch.cat([run([ids])[0] for ids in evaluation]), wanted)

    return Task(
        "MiniLM (BERT, 22.7M parameters, post-LN)",
        model,
        {"input_ids": evaluation[0]},
        [{"input_ids": ids} for ids in calibration],
        quality,
        "relative L2 error",
        "batch 8, length 128",
        "Error of last_hidden_state against float32 on 32 windows of text; calibrated on others.",
        ("exact", "w8a8", "w8a8-dynamic", "w8", "w4a16"),
    )


def smollm2() -> Task:
    model, tokenizer = zoo.smollm2()
    model.config.use_cache = False
    calibration = zoo.text_windows(tokenizer, 16, 256, "calibration").split(4)
    evaluation = zoo.text_windows(tokenizer, 32, 256, "evaluation")

    def quality(run: Run) -> float:
        return zoo.perplexity(lambda ids: run([ids])[0], evaluation)

    return Task(
        "SmolLM2-135M-Instruct (decoder, RMSNorm, grouped queries, tied embeddings)",
        model,
        {"input_ids": evaluation[:4]},
        [{"input_ids": ids} for ids in calibration],
        quality,
        "perplexity",
        "prefill of 4 x 256 tokens, all logits",
        "Perplexity on 32 windows of 256 tokens of text; calibrated on other text.",
        ("exact", "w8a8"),
    )


def images(title: str, model: torch.nn.Module) -> Task:
    """A classifier of scikit-learn's digits that was trained on them."""
    data = zoo.digits()
    calibration = [{"images": part} for part in data.train[:256].split(64)]

    def quality(run: Run) -> float:
        batches = [data.test[i : i + 64] for i in range(0, len(data.test) - 63, 64)]
        logits = torch.cat([run([part])[0] for part in batches])
        labels = data.test_labels[: len(logits)]
        return float((logits.argmax(-1) == labels).float().mean())

    return Task(
        title,
        model,
        {"images": data.test[:64]},
        calibration,
        quality,
        "accuracy",
        "batch 64",
        "Accuracy on the test images; calibrated on training images.",
    )


def vit() -> Task:
    title = "ViT (pre-LN, 203k parameters, trained on scikit-learn's digits)"
    return images(title, zoo.digits_vit())


def resnet() -> Task:
    title = "ResNet (78k parameters, trained on scikit-learn's digits)"
    return images(title, zoo.digits_resnet())


def photograph_like(count: int, size: int, seed: int) -> torch.Tensor:
    """Noise whose spectrum falls as that of photographs does, ``(count, 3, size, size)``."""
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.fft.fftfreq(size).square()
    falling = 1 / (frequencies[:, None] + frequencies[None, :]).sqrt().clamp(min=1 / size)
    noise = torch.fft.fft2(torch.randn(count, 3, size, size, generator=generator))
    images = torch.fft.ifft2(noise * falling).real
    return images / images.std((2, 3), keepdim=True)


def of_its_size(title: str, make: Callable[[], torch.nn.Module], size: int) -> Task:
    """A model that is as large as the trained ones are, with random weights: what latency and
    rounding depend on. Its batch norms, where it has some, know their inputs."""
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        model(pixel_values=photograph_like(16, size, seed=0))
    model.eval()
    calibration = photograph_like(16, size, seed=1).split(1)
    evaluation = photograph_like(16, size, seed=2).split(1)
    with torch.no_grad():
        wanted = torch.cat([model(pixel_values=part).logits for part in evaluation])

    def quality(run: Run) -> float:
        return zoo.relative_l2(torch.cat([run([part])[0] for part in evaluation]), wanted)

    return Task(
        title,
        model,
        {"pixel_values": evaluation[0]},
        [{"pixel_values": part} for part in calibration],
        quality,
        "relative L2 error",
        f"one image of {size} x {size}",
        "Error of the logits against float32 on 16 images of noise with the spectrum of "
        "photographs, calibrated on others. Weights are random: the error says how rounding adds "
        "up, and nothing of a task.",
        ("exact", "w8a8"),
    )


def resnet18() -> Task:
    layers: dict[str, Any] = {"layer_type": "basic", "depths": [2, 2, 2, 2], "num_labels": 1000}
    config = hf.ResNetConfig(hidden_sizes=[64, 128, 256, 512], **layers)
    title = "ResNet-18 (11.7M parameters, random weights)"
    return of_its_size(title, lambda: hf.ResNetForImageClassification(config), 224)


def deit() -> Task:
    sizes: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1536, "num_labels": 1000}
    config = hf.ViTConfig(num_attention_heads=6, **sizes)
    title = "DeiT-S (ViT, pre-LN, 22M parameters, random weights)"
    return of_its_size(title, lambda: hf.ViTForImageClassification(config), 224)


def whisper() -> Task:
    encoder = zoo.whisper_encoder()
    features = zoo.whisper_features("evaluation")
    with torch.no_grad():
        wanted = encoder(features).last_hidden_state

    def quality(run: Run) -> float:
        return zoo.relative_l2(run([features])[0], wanted)

    return Task(
        "Whisper tiny.en's encoder (pre-LN, 8M parameters)",
        encoder,
        {"input_features": features},
        [{"input_features": part} for part in zoo.whisper_features("calibration").split(1)],
        quality,
        "relative L2 error",
        "one window of 30 s",
        "Error of the encoder's output against float32 on 30 seconds of a recording; calibrated on "
        "the 14 seconds after them and three other recordings.",
        pipelines={
            "w8a8 by OS+ and coordinate descent": [
                "exact",
                rg.passes.SplitOutliers(),
                rg.passes.os_plus(),
                rg.passes.Quantize("static", rounding="coordinate-descent"),
            ]
        },
    )


TASKS: dict[str, Callable[[], Task]] = {
    "minilm": minilm,
    "smollm2": smollm2,
    "vit": vit,
    "resnet": resnet,
    "whisper": whisper,
    "resnet18": resnet18,
    "deit": deit,
}
