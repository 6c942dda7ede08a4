"""The main job on a real trained model: a sentence encoder in int8 for ONNX Runtime, with the
proof.

all-MiniLM-L6-v2 (22.7M parameters, true float32) is calibrated on one text and judged on another.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from zoo import minilm, relative_l2, text_windows

import regauge as rg


def main(folder: str = "out/minilm-w8a8") -> None:
    model, tokenizer = minilm()
    calibration = text_windows(tokenizer, 32, 128, "calibration")  # (32, 128)
    evaluation = text_windows(tokenizer, 32, 128, "evaluation")
    batches = [{"input_ids": window} for window in calibration.split(8)]

    artifact = rg.compile(
        model, (), batches[0], passes="w8a8", calibration=batches, target="onnxruntime"
    )
    artifact.save(folder)
    print(artifact.report)

    again = rg.load(folder)
    with torch.no_grad():
        pairs = [
            (again(input_ids=window).last_hidden_state, model(input_ids=window).last_hidden_state)
            for window in evaluation.split(8)
        ]
    found, wanted = (torch.cat(side) for side in zip(*pairs, strict=True))
    print(f"On other text: relative L2 error {relative_l2(found, wanted):.4f}")
    size = sum(file.stat().st_size for file in Path(folder).glob("*.onnx*"))
    print(f"Saved to {folder}: {size / 1e6:.1f} MB of model; open report.html there for the report")


if __name__ == "__main__":
    main(*sys.argv[1:])
