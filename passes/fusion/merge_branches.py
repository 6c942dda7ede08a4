"""Add up linear maps of one value: parallel branches as one convolution or one linear layer.

    (W x + c) + s (V x + e) + d x + b  =  (W + s V + diag(d)) x + (c + s e + b)

x is what the branches read, W and V convolutions of it or linear layers, d x the shortcut, a batch
norm or any multiple of x channel by channel; s and b are constants, one for each channel or one for
all. Kernels of different sizes are laid over each other by their paddings. Exact, and it never
costs: the sum has no more weights than the branches that go. Convolutions with batch norms behind
them are folded first, by ``FoldBatchNorm``. Source: RepVGG, arXiv:2101.03697, section 3.3 (F12,
12.6).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Graph, Node
from ...ir.types import is_real
from ..base import Context, Pass, Remark, missed
from .branches import Branches, Term, goes, is_map, size_of
from .channelwise import as_diagonal
from .linear_maps import Apart, form_of

SUMS = {"add": 1, "sub": -1}  # with the sign of the second operand


@dataclass(frozen=True)
class MergeBranches(Pass):
    """Make one linear map of several over the same value, and of their constant factors.

    Args:
        untie: Do it even where a tied parameter must then be stored twice.
    """

    untie: bool = False

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        for node in list(graph.nodes):
            if not node.args or not is_real(node.type):
                continue  # erased, or no matter of weights
            if node.op in ("mul", "div", "neg"):
                remarks += self._scaled(graph, node)
            elif node.op in SUMS and not _inside(node):
                remarks += self._summed(graph, node)
        return remarks

    def _scaled(self, graph: Graph, node: Node) -> list[Remark]:
        """A linear map times a constant."""
        for value in dict.fromkeys(node.inputs):
            form = form_of(value)
            found = form and as_diagonal(graph, node, value, form)
            if form and found and goes(value, {node}):
                whole = Branches(graph, node, {node}, value.args[0], form)
                whole.start(found[0], value)
                try:
                    return [whole.write([], self.untie)]
                except Apart as apart:
                    return [missed(node, str(apart))]
        return []

    def _summed(self, graph: Graph, root: Node) -> list[Remark]:
        """A sum of any number of terms, until no two maps in it can be one."""
        done: list[Remark] = []
        while True:
            terms, tree = _terms(root)
            sources = dict.fromkeys(n.args[0] for _, n in terms if is_map(n, root))
            left: list[Remark] = []
            for source in sources:
                whole, rest = _gather(graph, root, tree, source, terms, left)
                if whole is None:
                    continue
                try:
                    done.append(whole.write(rest, self.untie))
                except Apart as apart:
                    left.append(missed(root, str(apart)))
                else:
                    root = graph[done[-1].site]
                    break
            else:
                return [*done, *left]
            if root.op not in SUMS:
                return done


def _inside(node: Node) -> bool:
    """Whether a sum is itself a term of a sum, and of nothing else."""
    (*others, user) = node.users or [node]
    return not others and user.op in SUMS and user.type == node.type and _factor(user) is not None


def _factor(node: Node) -> float | None:
    """By what a sum multiplies its second operand, if that is a constant."""
    alpha = node.attrs.get("alpha", 1)
    return None if isinstance(alpha, Node) else SUMS[node.op] * alpha


def _terms(root: Node) -> tuple[list[Term], set[Node]]:
    """The terms of a sum, through sums that nobody else reads, and all those sums."""
    terms: list[Term] = []
    tree: set[Node] = set()
    stack: list[Term] = [(1, root)]
    while stack:
        factor, value = stack.pop()
        second = None
        if isinstance(value, Node) and value.op in SUMS:
            if value is root or (value.type == root.type and set(value.users) <= tree):
                second = _factor(value)
        if second is None:
            terms.append((factor, value))
        else:
            tree.add(value)
            left, right = value.args
            stack += [(factor * second, right), (factor, left)]
    return terms, tree


def _gather(
    graph: Graph,
    root: Node,
    tree: set[Node],
    source: Node,
    terms: list[Term],
    remarks: list[Remark],
) -> tuple[Branches | None, list[Term]]:
    """What can be one map of a value, and the other terms; says of branches why they cannot."""
    maps = [t for t in terms if is_map(t[1], root) and t[1].args[0] is source]
    maps.sort(key=lambda t: (not goes(t[1], tree), -size_of(t[1])))
    form = form_of(maps[0][1])
    assert form is not None
    whole = Branches(graph, root, tree, source, form)
    rest: list[Term] = []
    whole.start(*maps[0])
    for term in [*maps[1:], *(t for t in terms if t not in maps)]:
        try:
            if not whole.take(*term):
                rest.append(term)
        except Apart as apart:
            remarks.append(missed(term[1], f"it stays beside {maps[0][1].name}: {apart}"))
            rest.append(term)
    gains = len(whole.names) > 1 and goes(maps[0][1], tree)
    return (whole if gains else None), rest
