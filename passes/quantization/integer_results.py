"""Integer convolutions: where they can be, and the codes between them.

A runtime's convolution on codes is fast where its result is rounded to codes in the same kernel,
with the clip before that. So a convolution is quantized only where all that reads its result reads
codes: other contractions on codes, the sum with a shortcut that is codes too, pooling, a
concatenation, a row of all its numbers. What these pass on to each other then stays codes from end
to end.

    conv -> relu -> add -> relu -> conv    is    conv -> codes -> add -> codes -> conv
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir import Graph, Node, TensorType
from ...ir.clips import CLIPS
from ...ir.gauge import Site, weighted
from ..base import Context, Remark, applied
from ..calibration import observe
from .insertion import insert_static, range_to_scale

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_MAXIMA = ("max_pool1d", "max_pool2d")
_MEANS = ("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean")
_SMALL = (*_MEANS, "cat")  # little work, whatever they read

_PASSING = (*_MAXIMA, "reshape")  # give some of the codes that they read


@dataclass(frozen=True)
class IntegerResults:
    """The convolutions, sums and maxima that shall give codes; a target may ask for none.

    Attributes:
        makers: Those.
        convolutions_need_codes: Whether a convolution is quantized only if it is one of them.
        others: Contractions that read no static codes, whatever the rest do.
    """

    makers: frozenset[Node]
    convolutions_need_codes: bool = True
    others: frozenset[Node] = frozenset()

    @classmethod
    def find(
        cls,
        graph: Graph,
        context: Context,
        activations: str,
        others: frozenset[Node] = frozenset(),
        closed: bool | None = None,
    ) -> IntegerResults:
        """The greatest set in which each reads codes, and is read as the others can; none where
        convolutions need not be ``closed``, which the context says unless it is given."""
        if not (context.closed_convolutions if closed is None else closed):
            return cls(frozenset(), False)
        if activations != "static":
            return cls(frozenset())
        able = (node for node in graph.nodes if _can_make_codes(node) and node not in others)
        found = cls(frozenset(able), others=others)
        while True:
            makers = frozenset(node for node in found.makers if found._holds(node))
            kept = replace(found, makers=makers)
            if kept == found:
                return found
            found = kept

    def readers_of(self, site: Site) -> Site:
        """The site with the contractions that are to read codes."""
        return replace(site, readers=tuple(r for r in site.readers if not self._in_floats(r)))

    def floats(self, graph: Graph) -> list[Node]:
        """The contractions that stay in floating point."""
        return [node for node in graph.nodes if weighted(node) and self._in_floats(node)]

    def _in_floats(self, reader: Node) -> bool:
        needs = self.convolutions_need_codes and reader.op in CONVOLUTIONS
        return needs and reader not in self.makers

    def insert(self, graph: Graph, context: Context, who: str) -> list[Remark]:
        """Quantize the results, once the contractions' inputs are."""
        values = [_clipped(node) for node in graph.nodes if node in self.makers]
        bare = {value.name: 1 for value in values if _codes(value) is None}
        seen = observe(graph, context, bare, who, sample=0) if bare else {}
        remarks: list[Remark] = []
        for value in reversed(values):  # what a pool gives has codes before what it reads
            readers = tuple(user for user in value.users if self._wants(user))
            codes = _codes(value)
            if codes is not None:
                (known,) = codes.users
                for reader in readers:
                    reader.replace_input(value, known)
            elif readers:
                passed = [_codes(user) for user in value.users if user.op in _PASSING]
                if len(passed) == len(value.users) == 1 and passed[0] is not None:
                    scale, zero_point = (graph.value(param) for param in passed[0].args[1:3])
                else:
                    low, high = seen[value.name].low.min(), seen[value.name].high.max()
                    scale, zero_point = range_to_scale(low, high, context.activation_dtype)
                insert_static(graph, Site(value, 1, readers), scale, zero_point)
                remarks.append(applied(value, "the result in codes"))
        return remarks

    def _holds(self, node: Node) -> bool:
        readers = _clipped(node).users
        if node.op in CONVOLUTIONS:
            return bool(readers) and all(map(self._reads_codes, readers))
        operands = [_unclipped(arg) for arg in node.args if isinstance(arg, Node)]
        return all(arg in self.makers for arg in operands) and any(map(self._reads_codes, readers))

    def _reads_codes(self, node: Node) -> bool:
        if node.op == "constant_pad_nd":  # zeros, which the kernels of convolutions can put there
            return not node.attrs.get("value") and node.users.keys() <= self.makers
        return self._wants(node)

    def _wants(self, node: Node) -> bool:
        """Whether a node reads the codes of this very value; a padded one is rounded later."""
        if node.op in (*CONVOLUTIONS, *_MAXIMA, "add"):
            return node in self.makers
        if node.op == "reshape":  # all that there is of an example, in a row: its end as an image
            return len(node.shape) == 2
        return node.op in _SMALL or (weighted(node) and node not in self.others)


def _can_make_codes(node: Node) -> bool:
    """Whether kernels can round an op's result as they make it."""
    types = [arg.type for arg in node.args if isinstance(arg, Node)]
    if node.op == "add":
        return len(types) == 2 and types[0] == types[1] and isinstance(types[0], TensorType)
    return node.op in _MAXIMA or (node.op in CONVOLUTIONS and weighted(node))


def _clipped(node: Node) -> Node:
    """The value that a kernel rounds: the result, or the clip that alone reads it."""
    if len(node.users) == 1:
        (user,) = node.users
        if user.op in CLIPS:
            return _clipped(user)
    return node


def _unclipped(value: Node) -> Node:
    """The inverse."""
    while value.op in CLIPS and isinstance(value.args[0], Node) and len(value.args[0].users) == 1:
        value = value.args[0]
    return value


def _codes(value: Node) -> Node | None:
    return next((user for user in value.users if user.op == "quantize"), None)
