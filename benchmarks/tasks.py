"""What is compared: a trained model, data to calibrate on, other data to judge by, a measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
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
}
