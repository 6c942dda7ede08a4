"""How a scale is stored: in which format, rounded which way, under a scale of the tensor or not.

Powers of two (E8M0), of the greatest magnitude ``p`` in a block and the element's reach ``r``:

    up      2^ceil(log2(p / r))                  nothing saturates (M1 of A55)
    down    2^floor(log2(p / r))                 finer, and saturates (M2 of A55, which shares the
                                                 greatest scale of the tensor)
    floor   2^(floor(log2 p) - floor(log2 r))    the OCP microscaling formats
    ceil    2^(ceil(log2 p) - ceil(log2 r))      block floating point (F8.6)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from ..errors import InputError

Storage: TypeAlias = Literal["fp32", "fp16", "bf16", "e4m3", "e8m0"]
Rounding: TypeAlias = Literal["nearest", "up", "down", "floor", "ceil"]

DTYPES: dict[Storage, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e8m0": torch.float8_e8m0fnu,
}
LEAST = {"fp32": 2.0**-126, "fp16": 2.0**-24, "bf16": 2.0**-126, "e4m3": 2.0**-9, "e8m0": 2.0**-127}
GREATEST = {
    "fp32": torch.finfo(torch.float32).max,
    "fp16": 65504.0,
    "bf16": torch.finfo(torch.bfloat16).max,
    "e4m3": 448.0,
    "e8m0": 2.0**127,
}


@dataclass(frozen=True)
class ScaleFormat:
    """How scales are stored.

    Args:
        storage: Their format.
        rounding: Where they lie between two numbers of it: ``nearest``, but for powers of two.
        twofold: Whether they are factors of one scale of the tensor, in fp32 (NVFP4).
    """

    storage: Storage = "fp32"
    rounding: Rounding = "nearest"
    twofold: bool = False

    def __post_init__(self) -> None:
        allowed = ("up", "down", "floor", "ceil") if self.storage == "e8m0" else ("nearest",)
        if self.rounding not in allowed or (self.twofold and self.rounding in ("floor", "ceil")):
            raise InputError(
                f"a scale in {self.storage} cannot be rounded by '{self.rounding}'"
                + " under a scale of the tensor" * self.twofold,
                do=f"choose one of {', '.join(allowed[:2] if self.twofold else allowed)}",
            )

    @property
    def name(self) -> str:
        """As users write it; nothing for plain fp32."""
        parts = [self.storage] if self.storage != "fp32" or self.twofold else []
        default = "up" if self.storage == "e8m0" else "nearest"
        parts += [self.rounding] if self.rounding != default else []
        return "-".join(parts + ["twofold"] * self.twofold)

    def of_range(
        self, peak: torch.Tensor, reach: float, empty: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The scales at which an element spans a range, and the tensor's, where there is one.

        The gradient is that of ``peak / reach``.

        Args:
            peak: The greatest magnitude of each block, or the extent of its range.
            reach: What of the element is to lie there.
            empty: The scale where the peak is zero.
        """
        exact, peak = peak / reach, peak.detach()
        whole = None
        if self.twofold:
            # relative to the greatest, so that its own factor is free of error
            top, most = (GREATEST["e4m3"] if self.storage == "e4m3" else 1.0), peak.max()
            whole = torch.where(most > 0, (most / (reach * top)).clamp(min=LEAST["fp32"]), 1)
            whole = whole.float().to(peak.dtype)
            scale = peak / torch.where(most > 0, most, 1) * top
            exact = exact / whole
        elif self.rounding in ("floor", "ceil"):
            e = _log2(peak, self.rounding)
            e = e - _log2(torch.tensor(reach, dtype=torch.float64), self.rounding).to(e.device)
            scale = torch.ldexp(torch.ones_like(peak), e)
        else:
            scale = exact.detach()
        self.refuse_too_great(scale)
        return straight(exact, self.stored(torch.where(peak > 0, scale, empty))), whole

    def refuse_too_great(self, scale: torch.Tensor) -> None:
        """Raise where a scale is beyond the storage: all that it scales would be lost."""
        greatest = GREATEST[self.storage]
        if bool((scale > greatest).any()):
            raise InputError(
                f"a scale of {float(scale.max()):.3g} is beyond {self.storage}, which ends at "
                f"{greatest:.3g}",
                do="store scales in fp32 or bf16, or under one scale of the tensor (-twofold)",
            )

    def stored(self, scale: torch.Tensor) -> torch.Tensor:
        """What is kept of scales, in the dtype given; none becomes zero or infinite."""
        scale = scale.clamp(LEAST[self.storage], GREATEST[self.storage])
        if self.storage != "e8m0":
            return scale.to(DTYPES[self.storage]).to(scale.dtype)
        way = "ceil" if self.rounding in ("up", "ceil") else "floor"
        return torch.ldexp(torch.ones_like(scale), _log2(scale, way))

    @property
    def nbytes(self) -> int:
        """Of one scale."""
        return DTYPES[self.storage].itemsize

    def pack(self, scale: torch.Tensor) -> torch.Tensor:
        """The bytes of stored scales, ``uint8 [..., bytes of one]``."""
        kept = scale.unsqueeze(-1).contiguous()
        if self.storage == "e8m0":
            return (_log2(kept, "floor") + 127).to(torch.uint8)
        return kept.to(DTYPES[self.storage]).view(torch.uint8)

    def unpack(self, data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Stored scales, from their bytes."""
        if self.storage == "e8m0":
            one = torch.ones_like(data, dtype=dtype)
            return torch.ldexp(one, data.int() - 127).squeeze(-1)
        return data.view(DTYPES[self.storage]).to(dtype).squeeze(-1)


def straight(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The second, with the gradient of the first."""
    return rounded.detach() + (values - values.detach())


def _log2(values: torch.Tensor, way: str) -> torch.Tensor:
    """``floor`` or ``ceil`` of the logarithm, without error."""
    mantissa, exponent = torch.frexp(values)  # m 2^e with 1/2 <= m < 1
    return exponent - 1 if way == "floor" else exponent - (mantissa == 0.5).int()
