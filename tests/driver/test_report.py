import json
import math
import re

import pytest

import regauge as rg
from regauge.driver.figures import count, number, seconds, shorten, size
from regauge.driver.measure import Latency, OutputError
from regauge.driver.report import Model
from regauge.ir import parse
from regauge.passes import PassReport, Remark
from regauge.passes.base import decided


@pytest.fixture
def report() -> rg.Report:
    sites = [f"norm_{at}" for at in range(6)]
    return rg.Report(
        model=Model("BertModel", 22_565_376, 90_261_504, 412, 230, ["input_ids: i64[batch, 128]"]),
        asked="w8a8",
        target="onnxruntime",
        passes=[
            PassReport(
                "CenterResidual", "exact", 0.21, 3.1e-16,
                [Remark(True, "add", "centred", "model.py:3 forward", {"writers": 25})],
            ),
            PassReport("Round", "rounding to torch.float32", 0.0123, 4.2e-7),
            PassReport(
                "Quantize", "approximate", 12.5, 0.0721,
                [Remark(False, site, "<post-LN> reads it") for site in sites],
            ),
        ],
        bytes_after=22_900_000,
        errors=[OutputError("last_hidden_state", 0.0721, 0.99741)],
        latency=Latency(0.0452, 0.0141, 0.312, 0.305, 0.33, 9, "without any pass"),
        notes=["error and latency are of the example inputs, on this machine"],
        environment={"python": "3.11.7"},
    )  # fmt: skip


TEXT = """\
BertModel  ·  w8a8  ·  onnxruntime

  model    22.6 M parameters, 90.3 MB
  inputs   input_ids: i64[batch, 128]
  graph    412 ops → 230
  size     90.3 MB → 22.9 MB  (0.25×)
  error    last_hidden_state: relative L2 0.0721, cosine 0.997410
  latency  45.2 ms → 14.1 ms  (0.31×, quartiles 0.30 to 0.33)
           median of 9 rounds in turns; before: without any pass

 pass             promise                      damage      time   applied   missed
───────────────────────────────────────────────────────────────────────────────────
 CenterResidual   exact                       3.1e-16  210.0 ms         1        0
 Round            rounding to torch.float32   4.2e-07   12.3 ms
 Quantize         approximate                  0.0721    12.5 s         0        6

  Not done, and why
    Quantize  <post-LN> reads it  (norm_0, norm_1, norm_2, norm_3 and 2 more)

  note: error and latency are of the example inputs, on this machine"""


def squeezed(text: str) -> str:
    return re.sub(r"([ ─])\1*", r"\1", text)


def test_the_text(report: rg.Report) -> None:
    assert squeezed(str(report)) == squeezed(TEXT)


def test_brackets_in_a_reason_are_text_and_not_markup(report: rg.Report) -> None:
    report.passes[2].remarks[0] = Remark(False, "x", "[bold] stays")
    assert "[bold] stays  (x)" in str(report)


def test_what_was_decided_for_the_whole_is_in_the_summary(report: rg.Report) -> None:
    assert "Decided" not in str(report) and "Decided" not in report.html()
    graph = parse("def graph(x: f32[2]):\n    return x\n")
    report.passes[2].remarks.append(decided(graph, "4.5 <bits> a weight", bits=4.5))
    shown = squeezed(str(report))
    assert "Decided for the whole\n Quantize 4.5 <bits> a weight\n" in shown
    assert "<dt>Quantize</dt><dd>4.5 &lt;bits&gt; a weight</dd>" in report.html()


def test_json_gives_the_same_report_back(report: rg.Report) -> None:
    report.passes[2].damage = math.inf
    again = rg.Report.from_dict(json.loads(report.json()))
    assert again == report and str(again) == str(report)


def test_json_takes_what_passes_put_into_remarks(report: rg.Report) -> None:
    import torch

    report.passes[0].remarks[0].data["scale"] = torch.tensor([1.0, float("nan")])
    report.passes[0].remarks[0].data["kind"] = rg.passes.Stage.GAUGE
    data = json.loads(report.json())["passes"][0]["remarks"][0]["data"]
    assert data == {"writers": 25, "scale": [1.0, "nan"], "kind": 1}


def test_the_page_needs_nothing_beside_it_and_escapes_what_it_shows(report: rg.Report) -> None:
    page = report.html()
    assert "&lt;post-LN&gt; reads it" in page and "<post-LN>" not in page
    assert not re.search(r"https?://|<script|<link|src=", page)
    assert "prefers-color-scheme: dark" in page
    for figure in ("0.25×", "0.31×", "0.0721", "3.1e-16", "input_ids: i64[batch, 128]"):
        assert figure in page


def test_figures() -> None:
    assert [count(v) for v in (7, 1_500, 22_565_376, 7e9)] == ["7", "1.5 k", "22.6 M", "7.0 G"]
    assert [size(v) for v in (7, 1_500, 90_261_504)] == ["7 B", "1.5 kB", "90.3 MB"]
    assert [seconds(v) for v in (12.5, 0.0123, 4e-6)] == ["12.5 s", "12.3 ms", "4 µs"]
    assert [number(v) for v in (0, 3.14e-16, 0.07211, 1.5, math.inf)] == [
        "0", "3.1e-16", "0.0721", "1.5", "inf",
    ]  # fmt: skip
    assert shorten(["a", "b"]) == "a, b" and shorten(list("abcdef")) == "a, b, c, d and 2 more"
