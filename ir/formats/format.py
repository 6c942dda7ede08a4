"""A format: an element, which numbers share a scale, and how the scale is stored.

    x ~ s v(q)            q = the code of the number nearest to x / s
    x ~ s (q - z)         q = clip(round(x / s) + z, 0, 2^b - 1), of integers with a zero point z

The scale s broadcasts against the blocks of the tensor (``Granularity.cut``) and is exactly what
its storage gives back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import InputError
from .elements import Element, refuse_non_finite
from .granularity import Granularity
from .integers import Integer
from .packing import pack, packed_size, unpack
from .scales import ScaleFormat, straight

WHOLE = Granularity("tensor")
PLAIN = ScaleFormat()

# What the long names of standards are called.
ALIASES = {
    "fp8-e4m3-g32-pad-e8m0-floor": "mxfp8-e4m3",
    "fp8-e5m2-g32-pad-e8m0-floor": "mxfp8-e5m2",
    "fp6-e2m3-g32-pad-e8m0-floor": "mxfp6-e2m3",
    "fp6-e3m2-g32-pad-e8m0-floor": "mxfp6-e3m2",
    "fp4-e2m1-g32-pad-e8m0-floor": "mxfp4",
    "int8q6-g32-pad-e8m0-floor": "mxint8",
    "fp4-e2m1-g16-pad-e4m3-twofold": "nvfp4",
}


@dataclass(frozen=True)
class Parameters:
    """What the codes of a tensor are multiplied by and counted from.

    Args:
        scale: Broadcasts against the blocks; of vectors, with an axis more.
        whole: The scale of the tensor that all others are factors of.
        zero: The code of zero, a float of whole value that broadcasts as the scale does.
    """

    scale: torch.Tensor
    whole: torch.Tensor | None = None
    zero: torch.Tensor | None = None

    @property
    def step(self) -> torch.Tensor:
        """What codes are multiplied by."""
        return self.scale if self.whole is None else self.scale * self.whole

    def where(self, better: torch.Tensor, other: Parameters) -> Parameters:
        """These where they are better, others elsewhere; the scale of the tensor is the others'."""
        zero = None
        if self.zero is not None and other.zero is not None:
            zero = torch.where(better, self.zero, other.zero)
        return Parameters(torch.where(better, self.scale, other.scale), other.whole, zero)


@dataclass(frozen=True)
class Format:
    """How a tensor is kept in few bits; ``str`` gives the name that ``named`` reads.

    Args:
        element: The set of numbers.
        granularity: Which numbers share a scale.
        scale: How scales are stored.
        asymmetric: Whether there is a zero point; for unsigned integers alone.
    """

    element: Element
    granularity: Granularity = WHOLE
    scale: ScaleFormat = PLAIN
    asymmetric: bool = False

    def __post_init__(self) -> None:
        unsigned = isinstance(self.element, Integer) and not self.element.signed
        if self.asymmetric and not (unsigned and self.element.reach == 2**self.element.bits - 1):
            raise InputError(f"only unsigned integers have a zero point, not {self.element}")

    def __str__(self) -> str:
        element = self.element.name.removeprefix("u" if self.asymmetric else "")
        granularity = "" if self.granularity == WHOLE else self.granularity.name
        parts = (element, granularity, self.scale.name, "asym" * self.asymmetric)
        name = "-".join(part for part in parts if part)
        return _block_float(self) or ALIASES.get(name, name)

    def cut(self, tensor: torch.Tensor) -> torch.Tensor:
        """The blocks of a tensor, against which parameters broadcast."""
        return self.granularity.cut(tensor, self.element.dimension)

    def join(self, blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The tensor of a shape, of its blocks."""
        return self.granularity.join(blocks, shape, self.element.dimension)

    def spread(self, part: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """What blocks share, once for each number of a tensor of a shape."""
        blocks = self.cut(torch.empty(shape, device="meta"))
        return self.join(part.expand(blocks.shape), shape)

    def shared(self, blocks: torch.Tensor) -> tuple[int, ...]:
        """The axes of blocks over which a scale is shared."""
        within = self.element.dimension is not None and not self.element.scale_free
        axes = self.granularity.shared(blocks, self.element.dimension)
        return (*axes, blocks.dim() - 1) if within else axes

    def reduce(self, name: str, blocks: torch.Tensor) -> torch.Tensor:
        """A reduction (``sum``, ``amax``, ``amin``) of blocks to the shape of a scale."""
        axes = self.shared(blocks)
        if not axes:
            return blocks
        return getattr(torch, name)(blocks, dim=axes, keepdim=self.granularity.kind != "tensor")

    def fit(self, tensor: torch.Tensor) -> Parameters:
        """Parameters from the range of a tensor; ``searched`` finds better ones."""
        blocks = self.blocks(tensor)
        if self.element.scale_free:
            step = self.least_squares(blocks, self.element.nearest(blocks))
            return Parameters(*self.scale.of_range(step, 1.0, self._empty))
        if self.element.dimension is None:
            return self.of_range(self.reduce("amin", blocks), self.reduce("amax", blocks))
        size = self.element.magnitude(blocks)[..., None].expand_as(blocks)
        return self.of_range(None, self.reduce("amax", size))

    def of_range(self, low: torch.Tensor | None, high: torch.Tensor) -> Parameters:
        """Parameters of ranges that are given, in the shape of a scale; both ends get a gradient.

        Args:
            low: The opposite of ``high``, where not given. With a zero point, the range is widened
                to hold zero.
            high: The other end.
        """
        reach = self.element.reach
        if self.asymmetric:
            low, high = (-high if low is None else low).clamp(max=0), high.clamp(min=0)
            scale, whole = self.scale.of_range(high - low, reach)
            zero = -low / (scale if whole is None else scale * whole)
            return Parameters(scale, whole, straight(zero, torch.round(zero).clamp(0, reach)))
        if low is None:
            return Parameters(*self.scale.of_range(high, reach, self._empty))
        if not bool((self.element.table < 0).any()) and bool((low < 0).any()):
            raise InputError(
                f"{self} has no negative numbers, and the least is {float(low.min()):.3g}",
                do="choose a signed format, or integers with -asym",
            )
        return Parameters(*self.scale.of_range(torch.maximum(-low, high), reach, self._empty))

    @property
    def has_zero(self) -> bool:
        """Whether there is a code of zero; of vectors, of those that are all zeros."""
        zeros = self.element.table == 0
        zeros = zeros if self.element.dimension is None else zeros.all(-1)
        return bool(zeros.any())

    @property
    def _empty(self) -> float:
        """The scale of nothing but zeros: 1, but the least there is where no code is zero."""
        return 1.0 if self.has_zero else 0.0

    def least_squares(
        self, blocks: torch.Tensor, codes: torch.Tensor, importance: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The steps at which codes give back their numbers with the least squared error,
        ``s = sum(w v x) / sum(w v^2)``; not yet as stored."""
        numbers = self.element.decode(codes, blocks.dtype)
        weighted = numbers if importance is None else numbers * importance
        power = self.reduce("sum", weighted * numbers)
        step = self.reduce("sum", weighted * blocks) / torch.where(power > 0, power, 1)
        return step.clamp(min=0)

    def quantize(self, tensor: torch.Tensor, parameters: Parameters | None = None) -> Quantized:
        """The codes of a tensor; the parameters are those of its range where none are given.

        Parameters that are given are rounded to what is stored of them first.
        """
        blocks = self.blocks(tensor)
        found = self.fit(tensor) if parameters is None else self.stored(parameters)
        return Quantized(self, tensor.shape, tensor.dtype, self.nearest(blocks, found), found)

    def stored(self, parameters: Parameters) -> Parameters:
        """Parameters as their storage has them, without gradients."""
        scale, zero = parameters.scale.detach(), parameters.zero
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise InputError(f"{self}: a scale must be finite and greater than zero")
        self.scale.refuse_too_great(scale)
        if zero is not None:
            zero = torch.round(zero.detach()).clamp(0, self.element.reach)
        whole = parameters.whole
        whole = None if whole is None else whole.detach().float().to(scale.dtype)
        return Parameters(self.scale.stored(scale), whole, zero)

    def counts(self, shape: Sequence[int]) -> tuple[int, int]:
        """How many codes and scales a tensor of a shape has."""
        blocks = self.cut(torch.empty(tuple(shape), device="meta"))
        scales = self.reduce("amax", blocks).numel()
        return blocks.numel() // (self.element.dimension or 1), scales

    def nbytes(self, shape: Sequence[int]) -> int:
        """What a tensor of a shape takes in this format: ``Packed.nbytes``."""
        codes, scales = self.counts(shape)
        levels = self.element.levels
        zeros = packed_size(scales, levels) if self.asymmetric else 0
        whole = 4 if self.scale.twofold else 0
        return packed_size(codes, levels) + scales * self.scale.nbytes + zeros + whole

    def blocks(self, tensor: torch.Tensor) -> torch.Tensor:
        """The blocks of a tensor, in single or double precision, once it is known to be finite."""
        refuse_non_finite(tensor, str(self))
        if not tensor.numel():
            raise InputError(f"{self}: a tensor without numbers has no range")
        return self.cut(_working(tensor.detach()))

    def nearest(self, blocks: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The codes of blocks."""
        if self.element.scale_free:
            return self.element.nearest(blocks)
        values = blocks / parameters.step
        if parameters.zero is not None:
            values = values.round_().add_(parameters.zero)
        return self.element.nearest(values)

    def rounded(self, blocks: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """What the codes of blocks give back, without making the codes."""
        element, zero, step = self.element, parameters.zero, parameters.step
        if element.scale_free:
            return self.values(element.nearest(blocks), parameters)
        values = blocks / step
        if zero is not None:
            values = values.round_().add_(zero)
        numbers = element.rounded(values)
        return (numbers if zero is None else numbers.sub_(zero)).mul_(step)

    def values(self, codes: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The blocks that codes give back, in the dtype of the scale."""
        numbers = self.element.decode(codes, parameters.scale.dtype)
        return (numbers if parameters.zero is None else numbers - parameters.zero) * parameters.step

    def fake(self, tensor: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """What the codes of a tensor give back, with straight-through gradients.

        Rounding passes the gradient on; saturation stops it. So the gradient to the scale is that
        of LSQ, v(q) - x / s within range and v(q) beyond, and of the zero point that of LSQ+. Of
        elements whose codes do not depend on the scale, the tensor gets the whole gradient. Scales
        and zero points are rounded to their storage, with a straight gradient as well.
        """
        blocks = self.cut(_working(tensor))
        scale = straight(parameters.scale, self.scale.stored(parameters.scale.detach()))
        step = scale if parameters.whole is None else scale * parameters.whole
        element = self.element
        if element.scale_free:
            fixed = element.decode(element.nearest(blocks.detach()), blocks.dtype) * step
            found = fixed + (blocks - blocks.detach())
            return self.join(found, tensor.shape).to(tensor.dtype)
        values, zero = blocks / step, parameters.zero
        if zero is not None:
            zero = straight(zero, torch.round(zero))
            values = straight(values, torch.round(values)) + zero
        numbers = element.decode(element.nearest(values.detach()), blocks.dtype)
        passed = torch.where(element.saturated(values.detach()), 0, values - values.detach())
        numbers = numbers + passed if zero is None else numbers + passed - zero
        return self.join(numbers * step, tensor.shape).to(tensor.dtype)


@dataclass(frozen=True)
class Quantized:
    """A tensor as codes.

    Args:
        format: What they mean.
        shape: Of the tensor.
        dtype: Of the tensor.
        codes: ``uint8``, in the shape of the blocks (of vectors, without the axis within).
        parameters: Scale and zero point.
    """

    format: Format
    shape: torch.Size
    dtype: torch.dtype
    codes: torch.Tensor
    parameters: Parameters

    def dequantize(self) -> torch.Tensor:
        """The tensor that the codes stand for."""
        blocks = self.format.values(self.codes, self.parameters)
        return self.format.join(blocks, self.shape).to(self.dtype)

    def pack(self) -> Packed:
        """The same in as few bytes as its format takes."""
        parameters = self.parameters
        zero = parameters.zero
        levels = self.format.element.levels
        return Packed(
            self.format,
            self.shape,
            self.dtype,
            pack(self.codes, levels),
            self.format.scale.pack(parameters.scale),
            None if parameters.whole is None else parameters.whole.float(),
            None if zero is None else pack(zero.to(torch.uint8), levels),
        )


@dataclass(frozen=True)
class Packed:
    """A quantized tensor as it is stored.

    Args:
        format: What the bytes mean.
        shape: Of the tensor.
        dtype: Of the tensor.
        codes: ``uint8 [..., bytes of a row]``, where rows of codes fill whole bytes: so the bytes
            of a block lie together, beside its scale at the same place. Otherwise ``[bytes]``.
        scale: ``uint8``, in the shape of the scale with an axis for the bytes of one.
        whole: The scale of the tensor, ``float32``.
        zero: ``uint8``, packed as codes are.
    """

    format: Format
    shape: torch.Size
    dtype: torch.dtype
    codes: torch.Tensor
    scale: torch.Tensor
    whole: torch.Tensor | None
    zero: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """All that is stored for the tensor, without its name, shape and format."""
        parts = (self.codes, self.scale, self.zero, self.whole)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def bits(self) -> float:
        """For each number of the tensor."""
        return 8 * self.nbytes / self.shape.numel()

    def unpack(self) -> Quantized:
        """The codes and the parameters, as they were."""
        form, levels = self.format, self.format.element.levels
        dtype = _working(torch.empty(0, dtype=self.dtype)).dtype
        blocks = form.cut(torch.empty(self.shape, device="meta"))
        shape = blocks.shape[:-1] if form.element.dimension else blocks.shape
        scale = form.scale.unpack(self.scale, dtype)
        zero = None if self.zero is None else unpack(self.zero, levels, scale.shape).to(dtype)
        whole = None if self.whole is None else self.whole.to(dtype)
        codes = unpack(self.codes, levels, shape)
        return Quantized(form, self.shape, self.dtype, codes, Parameters(scale, whole, zero))


def _working(tensor: torch.Tensor) -> torch.Tensor:
    """In single precision, or in double where it is that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _block_float(form: Format) -> str | None:
    """The name of a block floating point format, where this is one."""
    element, shared = form.element, form.granularity
    if not isinstance(element, Integer):
        return None
    if form != block_float(element.width, shared.size or 1):
        return None
    return f"bfp{element.width}-b{shared.size}"


def block_float(bits: int, block: int) -> Format:
    """Blocks that share an exponent, with mantissas of so many bits, the sign among them (F8.6)."""
    granularity = Granularity("group", block, pad=True)
    return Format(Integer(bits, fraction=bits - 1), granularity, ScaleFormat("e8m0", "ceil"))
