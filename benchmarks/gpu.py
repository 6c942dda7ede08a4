"""Our kernels on the GPU at hand: each checked against float64, and timed beside its peers.

    python -m benchmarks.gpu [rows ...] [--limit N] [--retune] [--out FOLDER] [--dry]

Each group takes a few minutes, most of them for tuning, whose results are kept in
``benchmarks/results/gpu-<device>.tuned.json``; ``--limit`` tries fewer options. Times are medians
with a cold cache. Results go to benchmarks/results/gpu-<device>.{md,json}; a group that is run
again replaces its own, and what is there is kept after each kernel. ``--dry`` runs all of it on
small shapes where no GPU is, in Triton's interpreter, and keeps nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from regauge.codegen import (
    Bitplanes,
    BlockSparse,
    Grouped,
    LogQuantize,
    Matmul,
    Norm,
    Quantize,
    Region,
    Rows,
    SemiSparse,
    Ternary,
    Tuner,
    excess,
    kernels,
)
from regauge.codegen.description import E4M3, Tensors
from regauge.codegen.tuning import Clock, Device, milliseconds

RESULTS = Path(__file__).parent / "results"
CHECKED = 2e-3  # what may be lost on the way: a code's border may lie so much of a step off
Peer = Callable[["Entry", Tensors], Callable[[], Any]]


@dataclass(frozen=True)
class Entry:
    """A kernel to check and to time.

    Args:
        name: For a reader.
        region: What it computes.
        rows: Of how many rows.
        peers: What else is timed, by name.
        goals: How many times as fast as a peer it is meant to be.
    """

    name: str
    region: Region
    rows: int
    peers: dict[str, Peer]
    goals: dict[str, float]


@dataclass
class Figures:
    """What was measured of an entry.

    Args:
        name: The entry's.
        rows: The entry's.
        excess: How much worse than rounding once the results are, the worst of them.
        options: Those that were fastest.
        time: Of ours, in milliseconds.
        bandwidth: Of what has to be moved at least, in GB/s.
        operations: Multiplications and additions, in 10^12 a second.
        peers: The times of the peers, in milliseconds.
        goals: The entry's.
    """

    name: str
    rows: int
    excess: float
    options: dict[str, int]
    time: float
    bandwidth: float
    operations: float
    peers: dict[str, float] = field(default_factory=dict[str, float])
    goals: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def reached(self) -> bool:
        """Whether the results are right and all goals are met."""
        met = (self.peers[peer] / self.time >= goal for peer, goal in self.goals.items())
        return self.excess < CHECKED and all(met)


def copied(entry: Entry, operands: Tensors) -> Callable[[], Any]:
    """A copy that moves as many bytes."""
    half = entry.region.moved(entry.rows) // 2
    source = torch.empty(half, dtype=torch.uint8, device=operands["input"].device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def of_rows() -> list[Entry]:
    """Kernels that memory bounds."""
    regions = {
        "residual + RMSNorm, 4096": Rows(4096, residual=True, norm=Norm()),
        "RMSNorm, int8 of tokens, 4096": Rows(4096, norm=Norm(), quantize=Quantize()),
        "residual + RMSNorm, int8 of tokens, 4096": Rows(
            4096, residual=True, norm=Norm(), quantize=Quantize()
        ),
        "residual + RMSNorm, E4M3 of tokens, 8192": Rows(
            8192, residual=True, norm=Norm(), quantize=Quantize(E4M3)
        ),
        "LayerNorm, static uint8, 1024": Rows(
            1024, norm=Norm("layer", bias=True), quantize=Quantize(torch.uint8, "tensor")
        ),
        "SwiGLU, 14336": Rows(14336, gate="silu"),
        "SwiGLU, int8 of tokens, 14336": Rows(14336, gate="silu", quantize=Quantize()),
        "Hadamard 128, int8 of tokens, 4096": Rows(4096, hadamard=128, quantize=Quantize()),
        "Hadamard 4096, int8 of tokens": Rows(4096, hadamard=4096, quantize=Quantize()),
        "softmax to log2, 2048": Rows(2048, softmax=True, quantize=LogQuantize()),
    }
    return [
        Entry(name, region, 2**27 // region.width // 8 * 8, {"copy": copied}, {"copy": 0.9})
        for name, region in regions.items()
    ]


def in_bfloat16(entry: Entry, operands: Tensors) -> Callable[[], Any]:
    """The product alone, by cuBLAS."""
    region: Any = entry.region
    device = operands["input"].device
    x = torch.randn(entry.rows, region.inner, device=device).to(torch.bfloat16)
    w = torch.randn(region.outer, region.inner, device=device).to(torch.bfloat16)
    return lambda: x @ w.T


def by_cublas(entry: Entry, operands: Tensors) -> Callable[[], Any]:
    """The same codes by cuBLASLt: int8 to int32 with nothing after it, or E4M3 to bfloat16."""
    x, w = operands["input"], operands["weight"]
    ops: Any = torch
    if x.dtype == torch.int8:
        return lambda: ops._int_mm(x, w.T)
    one = torch.ones((), device=x.device)
    return lambda: ops._scaled_mm(x, w.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)


def of_products() -> list[Entry]:
    """Kernels that tensor cores bound."""
    peers: dict[str, Peer] = {"bf16": in_bfloat16, "cuBLASLt": by_cublas}
    goals = {"bf16": 1.6, "cuBLASLt": 0.9}
    whole = Matmul(4096, 4096, per="tensor", zero=True, bias=True, activation="gelu_tanh")
    return [
        Entry(f"{name}, {size}", Matmul(size, size, codes), size, peers, goals)
        for name, codes in (("int8", torch.int8), ("E4M3", E4M3))
        for size in (4096, 8192)
    ] + [
        Entry("int8 + bias + GELU, 4096", whole, 4096, peers, {"cuBLASLt": 0.9}),
    ]


def of_groups() -> list[Entry]:
    """Kernels that the bytes of a weight bound."""
    peers: dict[str, Peer] = {"copy": copied, "bf16": in_bfloat16}
    shapes = ((4096, 4096), (4096, 14336), (8192, 8192))
    found = [
        Entry(f"W{bits}A16, {n} x {k}", Grouped(k, n, bits), rows, peers, goals)
        for bits, rows, goals in (
            (4, 1, {"copy": 0.85}),
            (4, 16, {"bf16": 2.5}),
            (3, 1, {}),
            (2, 1, {}),
        )
        for k, n in (shapes if bits == 4 else shapes[1:2])
    ]
    region = Grouped(4096, 14336, zero=True)
    return [*found, Entry("W4A16, zero points, 14336 x 4096", region, 16, peers, {"bf16": 2.5})]


def in_int8(entry: Entry, operands: Tensors) -> Callable[[], Any]:
    """The product in int8 by cuBLASLt, which takes 17 rows and more."""
    region: Any = entry.region
    device = operands["input"].device
    ops: Any = torch
    x = torch.ones(max(entry.rows, 32), region.inner, dtype=torch.int8, device=device)
    w = torch.ones(region.outer, region.inner, dtype=torch.int8, device=device)
    return lambda: ops._int_mm(x, w.T)


def of_bits() -> list[Entry]:
    """Products by bits, for few rows, and beside them our own in int8."""
    peers: dict[str, Peer] = {"copy": copied, "bf16": in_bfloat16, "int8": in_int8}
    goals = {1: {"int8": 1.0}, 16: {}}
    size = 4096
    regions = {
        "W6A6 by bits, 4096 x 4096": Bitplanes(size, size),
        "W6A6 by bits, a scale of each row": Bitplanes(size, size, group=size),
        "W8A8, 4096 x 4096": Matmul(size, size),
    }
    found = [
        Entry(name, region, rows, peers, goals[rows] if isinstance(region, Bitplanes) else {})
        for rows in goals
        for name, region in regions.items()
    ]
    words = Rows(size, norm=Norm(), quantize=Quantize(bits=6, planes=True))
    return [*found, Entry("RMSNorm, words of 6 bits of tokens, 4096", words, 1, {}, {})]


def of_sparse() -> list[Entry]:
    """Weights that are half there, and ternary ones: bytes bound them for few rows."""
    peers: dict[str, Peer] = {"copy": copied, "bf16": in_bfloat16}
    found = [
        Entry(name, region, rows, peers, {"bf16": 1.2} if rows == 1 else {})
        for rows in (1, 16)
        for name, region in (
            ("two of four, 14336 x 4096", SemiSparse(4096, 14336)),
            ("ternary, turned by blocks of 256, 14336 x 4096", Ternary(4096, 14336)),
        )
    ]
    quarter = BlockSparse(4096, 4096, 1024)
    return [*found, Entry("a quarter of the blocks, 4096 x 4096", quarter, 4096, peers, {})]


GROUPS: dict[str, Callable[[], list[Entry]]] = {
    "rows": of_rows,
    "gemm": of_products,
    "grouped": of_groups,
    "bitplanes": of_bits,
    "sparse": of_sparse,
}


def small(entry: Entry) -> Entry:
    """The same for a few rows of a small size, which Triton's interpreter runs in a moment."""
    region: Any = entry.region
    if isinstance(region, Rows):
        block = None if region.hadamard is None else min(region.hadamard, 64)
        region = replace(region, width=256, hadamard=block)
    elif isinstance(region, BlockSparse):
        region = replace(region, inner=256, outer=256, count=4)
    elif isinstance(region, Bitplanes):
        region = replace(region, inner=128, outer=64, group=min(region.group, 128))
    else:
        region = replace(region, inner=256, outer=256)
    return replace(entry, region=region, rows=min(entry.rows, 32), goals={})


def seconds(run: Callable[[], Any]) -> float:
    """One run on the CPU, in milliseconds."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def repeated(entry: Entry, few: Tensors) -> dict[str, torch.Tensor]:
    """Operands for all rows of an entry, from those for a few."""
    found: dict[str, torch.Tensor] = {}
    for name, value in entry.region.operands(entry.rows).items():
        have = few[name]
        if value.shape != have.shape:
            times = [-(-value.shape[0] // have.shape[0])] + [1] * (have.dim() - 1)
            have = have.repeat(times)[: value.shape[0]].contiguous()
        found[name] = have
    return found


def timed(peer: Peer, entry: Entry, operands: Tensors, clock: Clock) -> float:
    """Not a number where this release of PyTorch does not have it for this device."""
    try:
        return clock(peer(entry, operands))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        print(f"{entry.name}: a peer does not run: {error}", flush=True)
        return math.nan


def measure(
    entry: Entry, tuner: Tuner | None, device: str, limit: int | None, clock: Clock
) -> Figures:
    """Tune, check, and time an entry beside its peers; without a tuner, the safest options."""
    few = entry.region.example(min(entry.rows, 512), seed=0)
    few = {name: value.to(device) for name, value in few.items()}
    many = repeated(entry, few)
    options = kernels.space(entry.region, entry.rows)[0]
    if tuner is not None:
        options = tuner.options(entry.region, many, limit=limit)
    wrong = excess(entry.region, few, kernels.run(entry.region, few, options))
    launch, _ = kernels.prepare(entry.region, many, options)
    took = clock(launch.run)
    peers = {name: timed(peer, entry, many, clock) for name, peer in entry.peers.items()}
    found = Figures(
        name=entry.name,
        rows=entry.rows,
        excess=max(wrong.values()),
        options=options,
        time=took,
        bandwidth=entry.region.moved(entry.rows) / took / 1e6,
        operations=entry.region.operations(entry.rows) / took / 1e9,
        peers=peers,
        goals=entry.goals,
    )
    print(_line(found), flush=True)
    return found


def _line(found: Figures) -> str:
    peers = [
        f"{name} {time:.4f} ms, {time / found.time:.2f} x"
        + (f" (goal {found.goals[name]:.2f})" if name in found.goals else "")
        for name, time in found.peers.items()
    ]
    cells = [found.name, f"{found.rows}", f"{found.excess:.1e}", f"{found.time:.4f}"]
    cells += [
        f"{found.bandwidth:.0f}",
        f"{found.operations:.0f}",
        "; ".join(peers),
        "✓" if found.reached else "✗",
    ]
    return f"| {' | '.join(cells)} |"


def markdown(about: str, groups: dict[str, list[Figures]]) -> str:
    """The table of all groups."""
    lines = ["# Kernels on a GPU", "", about, ""]
    lines += [
        "`excess`: how much farther from float64 than rounding once is, in steps of the codes"
    ]
    lines += ["or relative to the row. A peer's `x` is its time over ours.", ""]
    for name, figures in groups.items():
        lines += [f"## {name}", ""]
        lines += ["| kernel | rows | excess | ms | GB/s | TOP/s | peers | goals |"]
        lines += ["|---|---|---|---|---|---|---|---|", *map(_line, figures), ""]
    return "\n".join(lines)


def dry(groups: list[str]) -> dict[str, list[Figures]]:
    """Everything that a run does, small, but for tuning."""
    found: dict[str, list[Figures]] = {}
    for name in groups:
        entries = [small(entry) for entry in GROUPS[name]()]
        found[name] = [measure(entry, None, "cpu", None, seconds) for entry in entries]
    return found


def interpret() -> None:
    """Start this process anew with Triton's interpreter, unless it has it: which it is, is chosen
    before triton is imported."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "TRITON_INTERPRET": "1"})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; all, if none is named")
    parser.add_argument("--retune", action="store_true", help="forget which options were fastest")
    parser.add_argument("--limit", type=int, help="how many options a kernel tries")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go")
    parser.add_argument("--dry", action="store_true", help="small shapes, on the CPU: no figures")
    given = parser.parse_args(arguments)
    if unknown := set(given.groups) - GROUPS.keys():
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    torch.manual_seed(0)
    if given.dry:
        interpret()
        dry(given.groups or list(GROUPS))
        return
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: kernels are checked by tests/codegen instead, or --dry")
    about = Device.of(torch.device("cuda", torch.cuda.current_device()))
    device, stem = about.name, f"gpu-{about.stem}"
    given.out.mkdir(parents=True, exist_ok=True)
    tuned, file = given.out / f"{stem}.tuned.json", given.out / f"{stem}.json"
    if given.retune:
        tuned.unlink(missing_ok=True)
    known = json.loads(file.read_text())["groups"] if file.exists() else {}
    groups = {name: [Figures(**row) for row in rows] for name, rows in known.items()}
    said = (
        f"{device}, torch {torch.__version__}, triton {version('triton')}, "
        f"{datetime.date.today()}. {__doc__}"
    )
    tuner = Tuner(tuned, about)
    for note in tuner.notes:
        print(note, flush=True)
    for name in given.groups or GROUPS:
        groups[name] = []
        for entry in GROUPS[name]():
            groups[name].append(measure(entry, tuner, "cuda", given.limit, milliseconds))
            kept = {name: [asdict(row) for row in rows] for name, rows in groups.items()}
            file.write_text(json.dumps({"device": device, "groups": kept}, indent=1) + "\n")
            file.with_suffix(".md").write_text(markdown(said, groups))


if __name__ == "__main__":
    main()
