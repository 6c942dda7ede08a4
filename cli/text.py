"""Text by a saved artifact, printed as it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..driver.artifact import Artifact
from ..ir import InputError


def write(artifact: Artifact, tokenizer: Path, prompt: str, **options: Any) -> None:
    """Print what follows a prompt.

    Args:
        tokenizer: The folder that holds it.
        options: Those of ``Artifact.stream``.
    """
    from transformers import AutoTokenizer, TextStreamer

    try:
        words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the folder holds no tokenizer: {str(error).splitlines()[0]}",
            where=str(tokenizer),
            do="give the checkpoint folder of the model, or where its tokenizer was saved",
        ) from None
    ids: torch.Tensor = words(prompt, return_tensors="pt").input_ids
    if not ids.numel():
        raise InputError("the prompt has no tokens", do="give some text to begin with")
    printed = TextStreamer(words, skip_special_tokens=True)
    for token in artifact.stream(ids, **options):
        printed.put(token)
    printed.end()
