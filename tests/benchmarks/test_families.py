"""Shrinking a configuration nobody has seen keeps what its parts must agree on."""

from __future__ import annotations

import families
import pytest
from families import Sizes, shrink

TEXT = {
    "model_type": "unseen",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000,
}


def test_sizes_become_small_and_still_fit() -> None:
    assert shrink(TEXT, Sizes()) == {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_hidden_layers": 2,
        "vocab_size": 99,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000,
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"num_heads": 8, "num_kv_heads": 8}, {"num_kv_heads": 4}, id="as many"),
        pytest.param({"num_heads": 8, "num_kv_heads": 1}, {"num_kv_heads": 1}, id="one for all"),
        pytest.param(
            {"num_attention_heads": 8, "num_key_value_heads": None},
            {"num_key_value_heads": 4},
            id="not stated",
        ),
        pytest.param({"depths": [2, 2, 18, 2]}, {"depths": [2, 2, 2, 2]}, id="depths"),
        pytest.param(
            {"hidden_sizes": [64, 128, 320, 512], "num_heads": [1, 2, 5, 8]},
            {"hidden_sizes": [16, 32, 80, 128], "num_heads": [1, 2, 5, 8]},
            id="growing widths that heads divide",
        ),
        pytest.param({"mrope_section": [16, 24, 24]}, {"mrope_section": [2, 1, 1]}, id="sections"),
        pytest.param({"image_size": [384, 512]}, {"image_size": [64, 64]}, id="height and width"),
        pytest.param({"use_cache": True}, {"use_cache": False}, id="cache"),
        pytest.param({"conv_kernel": [10, 3, 2]}, {"conv_kernel": [10, 3, 2]}, id="kernels"),
        pytest.param({"head_dim": None, "num_heads": 16}, {"head_dim": 8}, id="a head not stated"),
    ],
)
def test_values_that_belong_together(before: dict[str, object], after: dict[str, object]) -> None:
    found = shrink(before, Sizes())
    assert {key: found[key] for key in after} == after


def test_a_layer_of_each_kind_stays() -> None:
    kinds = ["local"] * 5 + ["global"] + ["local"] * 5 + ["global"]
    found = shrink(
        {
            "num_hidden_layers": 12,
            "layer_types": kinds,
            "windows": [512] * 12,
            "per_layer_config": {"05": {"head_dim": 512}, "11": {"head_dim": 512}},
        },
        Sizes(),
    )
    assert found["layer_types"] == ["local", "global"]
    assert found["windows"] == [4, 4]
    assert found["per_layer_config"] == {"1": {"head_dim": 8}}


def test_tokens_stay_distinct_and_the_same_everywhere() -> None:
    found = shrink(
        {
            "image_token_id": 151655,
            "video_token_id": 151656,
            "pad_token_id": 0,
            "text_config": {"image_token_id": 151655, "vocab_size": 151936},
        },
        Sizes(),
    )
    image, video = found["image_token_id"], found["video_token_id"]
    assert image != video
    assert max(image, video) < found["text_config"]["vocab_size"]
    assert found["text_config"]["image_token_id"] == image
    assert found["pad_token_id"] == 0


def test_an_inner_configuration_keeps_its_kind_and_the_outer_one_is_built_by_its_class() -> None:
    found = shrink({"model_type": "outer", "vision_config": {"model_type": "inner"}}, Sizes())
    assert found == {"vision_config": {"model_type": "inner"}}


def test_widths_divided_keep_their_ratios() -> None:
    found = shrink({"hidden_size": 768, "num_attention_heads": 12, "width": 80}, Sizes(divisor=8))
    assert found == {"hidden_size": 96, "num_attention_heads": 12, "width": 10}


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(families.Unbuildable, match="timm"):
        families.build("timm_backbone")


def test_a_spread_has_equal_distances() -> None:
    assert families.spread([*"abcdefghij"], 5) == [*"acegi"]
    assert families.spread([*"ab"], 5) == [*"ab"]
