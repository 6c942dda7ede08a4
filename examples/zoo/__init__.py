"""Real trained models and data that come with Python packages, so that nothing is downloaded.

    minilm()            all-MiniLM-L6-v2: BERT, post-LN, 22.7M parameters in true float32
    smollm2()           SmolLM2-135M-Instruct: LLaMA-style, with large activation outliers
    whisper()           Whisper tiny.en; whisper_encoder() is its pre-LN encoder
    digits_vit()        a pre-LN vision transformer, trained on scikit-learn's digits in seconds
    digits_resnet()     a residual network of convolutions, trained on the same
    digits_vgg()        convolutions in a row, trained on the same
    digits_unet()       a diffusion model of the same, in about a minute; sample_digits() runs it
    digits_mobilenet()  inverted residuals with depthwise convolutions (MobileNetV2), likewise
    text_windows()      windows of the Python documentation, calibration apart from evaluation
    whisper_features()  log-mel input from recordings, calibration apart from evaluation
    perplexity(), accuracy(), relative_l2()   what to measure on them

`make venv` installs the packages. SmolLM2's weights were 4-bit before they came here (Q4_1, in
blocks of 32): they say nothing about 4-bit quantization in blocks of 32.
"""

from .digits import (
    Digits,
    DigitsMobileNet,
    DigitsResNet,
    DigitsVGG,
    DigitsViT,
    digits,
    digits_mobilenet,
    digits_resnet,
    digits_vgg,
    digits_vit,
)
from .measures import accuracy, perplexity, relative_l2
from .packages import Split
from .speech import transcribe, transcript, whisper, whisper_encoder, whisper_features
from .text import minilm, smollm2, text_windows
from .unet import DigitsUNet, digits_unet, sample_digits

__all__ = [
    "Digits",
    "DigitsMobileNet",
    "DigitsResNet",
    "DigitsUNet",
    "DigitsVGG",
    "DigitsViT",
    "Split",
    "accuracy",
    "digits",
    "digits_mobilenet",
    "digits_resnet",
    "digits_unet",
    "digits_vgg",
    "digits_vit",
    "minilm",
    "perplexity",
    "relative_l2",
    "sample_digits",
    "smollm2",
    "text_windows",
    "transcribe",
    "transcript",
    "whisper",
    "whisper_encoder",
    "whisper_features",
]
