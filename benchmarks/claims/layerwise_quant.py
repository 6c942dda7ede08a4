"""A43: perplexity against average bits when the less important blocks have two bits instead of
four."""

from __future__ import annotations

from allocating import candidates, formats, quality
from base import Figures, publish, smollm2

from regauge.passes import Choice
from regauge.passes.allocation import Chance, Outstanding, Similarity
from regauge.passes.allocation.ordered import Ordered

HIGH, LOW = formats(4, 2)
LOWERED = (8, 15)  # of 30 blocks
SAYS = (
    "{subject}. Claimed: with the blocks ordered by LIM (how little a block changes what it reads) "
    "or ZD (how many weights stand out), a quarter to a half of them go from four bits to two with "
    "little loss, and with far more by chance. Weights of the {blocks} blocks to the nearest in "
    "groups of 64 with zero points, stored bits with scales; the table, the head and activations "
    "in floating point. LIM bears the order out: far better than chance, and its reverse far "
    "worse; ZD does at a quarter of the blocks, and is no better than chance at half. That the "
    "loss is little does not hold for so small a model rounded to the nearest: each quarter of the "
    "blocks in int2 costs more than all in int4."
)


def measure() -> Figures:
    subject = smollm2(windows=4, judged=4)
    found = candidates(subject, (HIGH, LOW), by="block")
    blocks = [i for i, unit in enumerate(found.units) if unit.block >= 0]
    orders: dict[str, Ordered] = {
        "LIM": Similarity(),
        "LIM, reversed": Similarity(reverse=True),
        "ZD": Outstanding(),
        "chance": Chance(),
    }
    rows: list[list[object]] = [["float", "", "", subject.quality(subject.graph)]]

    values = {
        form: {
            w.name: found.weight(w, Choice(form)) for i in blocks for w in found.units[i].weights
        }
        for form in (HIGH, LOW)
    }

    def judged(lowered: set[int]) -> float:
        params = dict(values[HIGH])
        for index in lowered:
            for weight in found.units[index].weights:
                params[weight.name] = values[LOW][weight.name]
        return quality(subject, found, params)

    sizes = [unit.size for unit in found.units]
    total = sum(sizes[i] for i in blocks)

    def bits(lowered: set[int]) -> float:
        of = {i: Choice(LOW if i in lowered else HIGH) for i in blocks}
        return 8 * sum(found.units[i].nbytes(choice) for i, choice in of.items()) / total

    rows.append(["", 0, bits(set()), judged(set())])
    for name, score in orders.items():
        importance = score.importances(found)
        if score.reverse:
            importance = -importance
        order = sorted(blocks, key=lambda i, by=importance: float(by[i]))
        for count in LOWERED:
            lowered = set(order[:count])
            rows.append([name, count, bits(lowered), judged(lowered)])
            print(rows[-1], flush=True)
    rows.append(["", len(blocks), bits(set(blocks)), judged(set(blocks))])
    return Figures(rows, {"subject": subject.title, "blocks": len(blocks)})


if __name__ == "__main__":
    publish(
        "layerwise_quant",
        "Two bits for the less important blocks (A43, layer-wise quantization)",
        SAYS,
        ["order", "blocks in int2", "bits a weight", "perplexity"],
        measure,
    )
