"""The commands as a user types them."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import regauge as rg
from regauge.backends.profiles import TARGETS
from regauge.cli import main

Run = Callable[..., tuple[int, str, str]]
Read = Callable[[str], list[dict[str, Any]]]
TORCH = ["--target", "torch", "--no-measure"]


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the program; gives exit code, standard output and standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["regauge", *words])
        monkeypatch.setattr(sys, "path", [*sys.path])
        sys.modules.pop("nets", None)
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


# -- compile ------------------------------------------------------------------


@pytest.mark.parametrize("source", ["nets:pair", "nets.py:pair", "nets:triple", "nets:full"])
def test_compile_writes_an_artifact_and_prints_its_report(
    run: Run, place: Path, source: str
) -> None:
    code, out, err = run("compile", source, *TORCH, "--out", "made")
    assert (code, err.splitlines()[-1]) == (0, "saved to made")
    assert out.startswith("Net  ·  exact  ·  torch\n")
    assert rg.load(place / "made").report.asked == "exact"


def test_compile_takes_passes_separated_by_commas(run: Run, place: Path) -> None:
    code, *_ = run("compile", "nets:pair", *TORCH, "-p", "exact, FoldBatchNorm", "-o", "made")
    assert code == 0
    assert rg.load(place / "made").report.asked == "exact + FoldBatchNorm"


def test_sizes_may_vary(run: Run, place: Path) -> None:
    import torch

    code, *_ = run("compile", "nets:pair", *TORCH, "-o", "made", "--shapes", "x=batch:2,8")
    assert code == 0
    assert rg.load(place / "made")(torch.ones(5, 8)).shape == (5, 4)


def test_compile_without_calibration_or_passes_measures_the_example(run: Run) -> None:
    code, out, _ = run("compile", "nets:pair", "--target", "torch", "-o", "made")
    assert code == 0 and "relative L2" in out and "median of" in out


def test_compile_hands_options_to_the_target(run: Run, place: Path) -> None:
    words = ["-t", "onnxruntime", "--no-measure", "-o", "made", "--option", "threads=1"]
    assert run("compile", "nets:pair", *words)[0] == 0
    assert (place / "made" / "model.onnx").is_file()


# -- generate -----------------------------------------------------------------


@pytest.fixture
def checkpoint(place: Path) -> Path:
    """A small decoder and its tokenizer of single words."""
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": 39}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **heads)).eval()  # type: ignore[arg-type]
    model.save_pretrained(place / "model")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    hf.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(place / "model")
    return place / "model"


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_generate_prints_what_the_model_would_say(run: Run, checkpoint: Path, target: str) -> None:
    import torch
    import transformers as hf

    words = ["-t", target, "--no-measure", "-o", "made", "--cache", "-s", "input_ids=1,8"]
    assert run("compile", str(checkpoint), *words)[0] == 0
    asked = ["w3 w7 w5", "--tokenizer", str(checkpoint), "-n", "6"]
    code, out, _ = run("generate", "made", *asked)
    model: Any = hf.AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([[3, 7, 5]])
    wanted = model.generate(ids, max_new_tokens=6, do_sample=False)[0, 3:].tolist()
    assert code == 0
    assert out.split() == [f"w{i}" for i in wanted]
    code, drawn, _ = run("generate", "made", *asked, "--temperature", "9", "--seed", "4")
    assert code == 0 and drawn.split() != out.split()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["w1", "--tokenizer", "empty"], "the folder holds no tokenizer"),
        (["", "--tokenizer", "model"], "the prompt has no tokens"),
        (["w1", "--tokenizer", "model", "--top-k", "3"], "at temperature 0 nothing is drawn"),
        (["w1", "--tokenizer", "model", "-O", "tune=3"], "target 'torch' has no option 'tune'"),
    ],
)
def test_generate_says_what_is_wrong(
    run: Run, place: Path, checkpoint: Path, words: list[str], what: str
) -> None:
    (place / "empty").mkdir()
    assert run("compile", str(checkpoint), *TORCH, "-o", "made", "--cache")[0] == 0
    code, _, err = run("generate", "made", *words)
    assert code == 2 and what in " ".join(err.split())


def test_generate_wants_an_artifact_with_a_cache(run: Run, checkpoint: Path) -> None:
    assert run("compile", "nets:pair", *TORCH, "-o", "made")[0] == 0
    code, _, err = run("generate", "made", "w1", "--tokenizer", str(checkpoint))
    assert code == 2 and "this artifact of Net keeps no cache to generate with" in err


BAD_COMPILE = [
    ("nets", "'nets' is neither a folder nor module:factory"),
    ("gone:pair", "there is no module 'gone'"),
    ("gone.py:pair", "there is no file gone.py"),
    ("nets:gone", "nets:gone: gone does not exist"),
    ("nets:number", "nets:number: number is not a function"),
    ("nets:wrong", "nets:wrong returned a int"),
    ("nets:odd", "nets:odd returned the key 'inputs'"),
]


@pytest.mark.parametrize(("source", "what"), BAD_COMPILE)
def test_a_source_that_is_none(run: Run, place: Path, source: str, what: str) -> None:
    code, out, err = run("compile", source, *TORCH, "-o", "made")
    assert (code, out, err.splitlines()[0]) == (2, "", f"InputError: {what}")
    assert not (place / "made").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["-p", "w3"], "InputError: there is no preset or pass 'w3'"),
        (["-t", "tpu"], "TargetError: there is no target 'tpu'"),
        (["-c", "nets:bad"], "InputError: calibration batch 0: x: 16 of 16 numbers are not finite "
                             "(NaN)"),
        (["-c", "data.csv"], "InputError: --calibration data.csv: expected a .txt, .npz or "
                             ".safetensors file, or module:function"),
        (["-c", "gone.npz"], "InputError: --calibration gone.npz: there is no such file"),
        (["-c", "some.txt"], "InputError: some.txt is text, and only a checkpoint folder of a text "
                             "model brings a tokenizer"),
        (["-O", "threads"], "InputError: --option threads: expected a name, '=' and a value"),
        (["-O", "threads=1"], "TargetError: target 'torch' has no option 'threads'"),
        (["-s", "x"], "InputError: --shapes x: expected an input's name and '='"),
        (["-s", "x=2,8.5"], "InputError: --shapes x=2,8.5: '8.5' is not a size"),
        (["-s", "z=2,8"], "InputError: --shapes z: there is no such input"),
        (["-s", "x=3,8"], "InputError: --shapes x: the example has the shape [2, 8]"),
        (["-s", "x=8"], "InputError: --shapes x: the example has the shape [2, 8]"),
    ],
)  # fmt: skip
def test_a_bad_option(run: Run, place: Path, options: list[str], what: str) -> None:
    (place / "some.txt").write_text("words")
    code, out, err = run("compile", "nets:pair", *TORCH, "-o", "made", *options)
    assert (code, out, err.splitlines()[0]) == (2, "", what)
    assert not (place / "made").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(run: Run, place: Path) -> None:
    code, _, err = run("compile", "nets:fails", *TORCH, "-o", ".")
    assert code == 2
    assert err.startswith(f"ArtifactError: {place} is not empty and holds no artifact")


def test_an_error_of_the_users_own_code_keeps_its_traceback(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["regauge", "compile", "nets.py:fails", *TORCH, "-o", "made"])
    with pytest.raises(RuntimeError, match="my own mistake"):
        main()


# -- calibration files --------------------------------------------------------


@pytest.fixture
def read(place: Path) -> Read:
    """The batches that a calibration file gives."""
    from regauge.cli.calibration import read
    from regauge.cli.source import load

    def call(name: str) -> list[dict[str, Any]]:
        return list(read(name, load("nets.py:pair", {})))

    return call


def test_a_file_may_hold_one_input_or_a_stack_of_them(place: Path, read: Read) -> None:
    import numpy
    import torch
    from safetensors.torch import save_file

    numpy.savez(place / "one.npz", x=numpy.ones((2, 8), numpy.float32))
    assert [{k: v.shape for k, v in b.items()} for b in read("one.npz")] == [{"x": (2, 8)}]
    save_file({"x": torch.ones(3, 2, 8)}, place / "stack.safetensors")
    assert [b["x"].shape for b in read("stack.safetensors")] == [(2, 8)] * 3


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"z": (2, 8)}, "the model has no input 'z'"),
        ({"x": (8,)}, "x: expected 2 axes, or 3 for a stack of inputs, got [8]"),
    ],
)
def test_a_file_that_does_not_fit(
    place: Path, read: Read, arrays: dict[str, tuple[int, ...]], what: str
) -> None:
    import numpy

    found: dict[str, Any] = {k: numpy.ones(v, numpy.float32) for k, v in arrays.items()}
    numpy.savez(place / "a.npz", **found)
    with pytest.raises(rg.ir.InputError) as error:
        read("a.npz")
    assert error.value.what == what and error.value.where == "a.npz"


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_a_damaged_file(place: Path, read: Read, name: str) -> None:
    (place / name).write_bytes(b"not a file of this kind")
    with pytest.raises(rg.ir.InputError, match=r"^the file is damaged or not of its kind: "):
        read(name)


# -- the other commands -------------------------------------------------------


def test_report_as_text_json_and_page(run: Run, place: Path) -> None:
    run("compile", "nets:pair", *TORCH, "-o", "made")
    code, out, _ = run("report", "made")
    assert code == 0 and out == (place / "made" / "report.txt").read_text()
    code, out, _ = run("report", "made", "--json")
    assert code == 0 and json.loads(out)["target"] == "torch"
    code, out, err = run("report", "made", "--html", "page.html")
    assert (code, out, err) == (0, "", "written to page.html\n")
    assert (place / "page.html").read_text() == (place / "made" / "report.html").read_text()


def test_report_of_a_folder_without_an_artifact(run: Run) -> None:
    code, out, err = run("report", ".")
    assert (code, out) == (2, "")
    assert err.startswith(
        "ArtifactError: there is no manifest.json: this folder holds no artifact\n"
    )


def test_inspect_shows_the_graph_and_its_sites(run: Run) -> None:
    code, out, _ = run("inspect", "nets:pair")
    assert code == 0
    assert "x: f32[2, 8]" in out and "linear 2" in out
    assert "first_weight" in out and "it is an input of the graph" in " ".join(out.split())


def test_targets(run: Run) -> None:
    code, out, _ = run("targets")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and ["torch", "yes"] in [row[:2] for row in rows]
    text = " ".join(out.split())
    assert "every format" in text and "int2 .. int8" in text


def test_all_of_one_target(run: Run) -> None:
    code, out, _ = run("targets", "torch")
    text = " ".join(out.split())
    assert code == 0 and "installed yes" in text and "options device, half, tries, fuse" in text
    code, out, _ = run("targets", "ethos-u")
    text = " ".join(out.split())
    assert "int8 weights and int8 activations, static, from end to end; fixed sizes" in text
    assert "hardsigmoid, hardswish, layer_norm" in text and "scores that do not count -30" in text
    code, _, error = run("targets", "far")
    assert code == 2 and error.startswith("TargetError: there is no target 'far'")


def test_targets_that_are_not_installed_come_with_the_command(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = dataclasses.replace(TARGETS["qnn"], requires=("a_package_that_nobody_has",))
    monkeypatch.setitem(TARGETS, "qnn", here)
    code, out, _ = run("targets")
    assert code == 0 and "pip install 'regauge[qnn]'" in " ".join(out.split())


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"regauge {rg.__version__}\n", "")


# -- as a program -------------------------------------------------------------


def test_an_error_is_a_message_and_exit_code_2(place: Path) -> None:
    words = [sys.executable, "-m", "regauge", "compile", "nets:wrong", "-t", "torch", "-o", "made"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "InputError: nets:wrong returned a int\n"
        "  do  return a model, (model, args), (model, args, kwargs), or a dict with the key "
        "'model'\n"
    )


def test_an_interrupt_exits_with_130_and_leaves_nothing(place: Path) -> None:
    words = [sys.executable, "-m", "regauge", "compile", "nets:slow", "-t", "torch", "-o", "made"]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        # Whoever runs the tests in the background has interrupts ignored, and so has a child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert {path.name for path in Path(place).iterdir()} <= {"nets.py", "__pycache__"}
