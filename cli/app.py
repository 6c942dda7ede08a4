"""The commands, each a thin layer over the function that does the work."""

from __future__ import annotations

import sys
from json import loads as json_value
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .. import __version__
from .. import compile as compile_model
from ..backends.profiles import TARGETS
from ..backends.profiles import target as find_target
from ..driver.artifact import check_folder, read_report
from ..driver.artifact import load as load_artifact
from ..driver.progress import Bars
from ..ir import InputError
from .calibration import read
from .inspect import show
from .shapes import parse
from .source import load
from .targets import show_target, weights
from .text import write

app = typer.Typer(
    name="regauge",
    help="Rewrite a trained network into an equal one that quantizes and runs better, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SOURCE = typer.Argument(
    help="A checkpoint folder (config.json and safetensors), or module:factory; the factory "
    "returns a model, (model, args), (model, args, kwargs), or a dict of compile's arguments.",
    show_default=False,
)
SHAPES = typer.Option(
    "--shapes",
    "-s",
    help="Sizes of an input, as input_ids=batch:8,128: a name may vary, a number may not, and "
    "name:number varies and has this size in the example. Once for each input.",
    show_default=False,
)
SAVED = typer.Argument(help="A saved artifact.", show_default=False)
TOKENIZER = typer.Option(
    "--tokenizer", help="The checkpoint folder that holds the tokenizer.", show_default=False
)
OUT = typer.Option("--out", "-o", help="The folder to write.", show_default=False)
PASSES = typer.Option("--passes", "-p", help="Presets and passes, separated by commas.")
TARGET = typer.Option("--target", "-t", help="Where it shall run; see `regauge targets`.")
RESUME = typer.Option(
    help="A folder that keeps what was decided; the same command goes on where it was stopped.",
    show_default=False,
)
OPTION = typer.Option(
    "--option",
    "-O",
    help="What the target takes besides, as threads=1 or tune=200; may be given more than once.",
    show_default=False,
)
CACHE = typer.Option(
    "--cache",
    help="Let a causal language model take its keys and values and give them back, for `regauge "
    "generate`; batch and lengths may then vary, and --shapes are the example's alone.",
)
CALIBRATION = typer.Option(
    "--calibration",
    "-c",
    help="module:function that gives inputs, a .npz or .safetensors of inputs by name, or, "
    "for a checkpoint folder with a tokenizer, a .txt.",
    show_default=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"regauge {__version__}")
        raise typer.Exit


def _option(text: str) -> tuple[str, Any]:
    """``threads=1``, ``device=cuda``: a name, and a number or a word."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"--option {text}: expected a name, '=' and a value")
    try:
        return name, json_value(value)
    except ValueError:
        return name, value


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command("compile")
def compile_(
    source: Annotated[str, SOURCE],
    out: Annotated[Path, OUT],
    passes: Annotated[str, PASSES] = "exact",
    target: Annotated[str, TARGET] = "onnxruntime",
    calibration: Annotated[str, CALIBRATION] = "",
    shapes: Annotated[list[str] | None, SHAPES] = None,
    cache: Annotated[bool, CACHE] = False,
    measure: Annotated[bool, typer.Option(help="Measure error and latency on the example.")] = True,
    resume: Annotated[Path | None, RESUME] = None,
    option: Annotated[list[str] | None, OPTION] = None,
) -> None:
    """Transform a model, prove what was done, and save it for a target, with its report."""
    check_folder(out)
    with Bars() as bars, bars.stage(f"loading {source}"):
        found = load(source, parse(shapes or []))
        batches = read(calibration, found) if calibration else found.calibration
    artifact = compile_model(
        found.model,
        found.args,
        found.kwargs,
        passes=[name.strip() for name in passes.split(",") if name.strip()],
        calibration=batches,
        target=target,
        dynamic_shapes=None if cache else found.dynamic_shapes,
        cache=cache,
        measure=measure,
        resume=resume,
        options=dict(map(_option, option or [])),
    )
    with Bars() as bars, bars.stage(f"saving to {out}"):
        artifact.save(out)
    print(artifact.report)
    print(f"\nsaved to {out}", file=sys.stderr)


@app.command()
def generate(
    folder: Annotated[Path, SAVED],
    prompt: Annotated[str, typer.Argument(help="What the text begins with.", show_default=False)],
    tokenizer: Annotated[Path, TOKENIZER],
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="At most so many new ones.")] = 128,
    temperature: Annotated[
        float, typer.Option(help="What scores are divided by before one is drawn; 0 for the best.")
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many best alone.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the fewest best of this probability.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    option: Annotated[list[str] | None, OPTION] = None,
) -> None:
    """Print what follows a prompt, token by token, by an artifact compiled with --cache."""
    with Bars() as bars, bars.stage(f"loading {folder}"):
        artifact = load_artifact(folder, options=dict(map(_option, option or [])))
    write(
        artifact,
        tokenizer,
        prompt,
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )


@app.command()
def inspect(
    source: Annotated[str, SOURCE], shapes: Annotated[list[str] | None, SHAPES] = None
) -> None:
    """Show a model's graph, its gauge sites, and what blocks those that cannot be used."""
    with Bars() as bars, bars.stage(f"loading {source}"):
        found = load(source, parse(shapes or []))
    show(found)


@app.command()
def report(
    folder: Annotated[Path, SAVED],
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write it as a page to this file.", show_default=False),
    ] = None,
) -> None:
    """Show the report of a saved artifact."""
    found = read_report(folder)
    if html is not None:
        html.write_text(found.html(), encoding="utf-8")
        print(f"written to {html}", file=sys.stderr)
    if json:
        print(found.json(), end="")
    elif html is None:
        print(found)


@app.command()
def targets(
    name: Annotated[
        str | None, typer.Argument(help="Show all of one target.", show_default=False)
    ] = None,
) -> None:
    """Show where a model can run, what each target takes, and what it needs."""
    if name is not None:
        show_target(find_target(name))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("target", no_wrap=True)
    for heading in ("installed", "takes", "weights of few bits"):
        table.add_column(heading)
    for target in TARGETS.values():
        takes = target.takes if target.missing is None else f"{target.takes}\n{target.missing[1]}"
        table.add_row(target.name, "yes" if target.installed else "no", takes, weights(target))
    Console(markup=False).print(table)
