"""A decoder made narrower or shallower: beside SliceGPT, and beside the removal of whole blocks.

SliceGPT is written anew from its paper (``slicing.py``), block removal is by the cosine similarity
of what enters and leaves (ShortGPT). Ours has as many products left as the peer of its kind.
"""

from __future__ import annotations

from typing import Any

import zoo
from base import Figures, Subject, latencies, publish, smollm2
from slicing import slicegpt

import regauge as rg
from regauge.ir import Graph
from regauge.passes import DropLayers, Prune
from regauge.passes.structure.costs import Costs

KEPT = 432  # of 576 channels, three quarters
ROUNDS = 5
SAYS = (
    "{subject}. Perplexity, with nothing trained afterwards; latency of the exported model in "
    "float32 on ONNX Runtime, one thread, on 4 windows, the least of {rounds} interleaved runs. "
    "SliceGPT keeps {kept} of 576 channels of the stream, by the principal axes of what norms read "
    "or give, whichever is better; it needs a head of its own, and its matrices on the shortcuts "
    "count as products. Ours leaves out neurons of the feed-forward networks, as many products as "
    "SliceGPT leaves out, by what their readers lose once they make up for it. Of 30 blocks 6 go "
    "by the similarity of what enters and leaves; ours is the same with the last map before each "
    "gap making up for it. The head gives scores of all tokens here, which no removal makes less; "
    "generating text needs those of the last one, so the rest is also timed by itself. "
    "Latency falls by 0.92 to 1.05 of the share of products that ours leave out."
)


def measure() -> Figures:
    subject = smollm2(16, 8)
    graphs: dict[str, Graph] = {"whole": subject.graph}
    graphs["SliceGPT"] = _sliced(subject)
    inputs = subject.calibration[0]
    costs = {name: Costs(graph, [], inputs) for name, graph in graphs.items()}
    part = 1 - costs["SliceGPT"].macs() / costs["whole"].macs()
    ours = Prune(remove=part, of="macs", roles=("hidden",), share=0.25)
    graphs["ours, narrower"] = subject.after([ours])
    blocks = DropLayers(remove=0.2, kinds=("block",), recover=False)
    graphs["blocks left out"] = subject.after([blocks])
    bridged = DropLayers(remove=0.2, kinds=("block",))
    graphs["ours, shallower"] = subject.after([bridged])
    quality = {name: subject.quality(graph) for name, graph in graphs.items()}
    print(quality, flush=True)
    bodies = {name: _body(graph) for name, graph in graphs.items()}
    times, alone = (latencies(some, inputs, ROUNDS) for some in (graphs, bodies))
    rows: list[list[Any]] = []
    for name in graphs:
        found, body = (Costs(some[name], [], inputs) for some in (graphs, bodies))
        rows.append(
            [
                name,
                f"{found.parameters() / 1e6:.1f} M",
                found.macs() / costs["whole"].macs(),
                times[name] / times["whole"],
                body.macs() / Costs(bodies["whole"], [], inputs).macs(),
                alone[name] / alone["whole"],
                quality[name],
            ]
        )
    return Figures(rows, {"subject": subject.title, "kept": KEPT, "rounds": ROUNDS})


def _sliced(subject: Subject) -> Graph:
    """SliceGPT's better way, by the text that is judged."""
    model, _ = zoo.smollm2()
    model.config.use_cache = False
    batches = [batch[0] for batch in subject.calibration]
    found: list[Graph] = []
    for normalized in (True, False):
        sliced = slicegpt(model, batches, KEPT, normalized=normalized)
        found.append(rg.trace(sliced, (), {"input_ids": batches[0]}))
    return min(found, key=subject.quality)


def _body(graph: Graph) -> Graph:
    """A decoder without its head, whose scores of all tokens nobody needs who generates text."""
    body = graph.copy()
    (logits,) = body.output.inputs
    assert logits.op == "linear"
    body.returns(logits.args[0])
    body.prune()
    return body


if __name__ == "__main__":
    publish(
        "narrower",
        "A narrower and a shallower decoder",
        SAYS,
        (
            "way",
            "parameters",
            "products",
            "latency",
            "products without head",
            "latency without head",
            "perplexity",
        ),
        measure,
    )
