"""A model's calling convention as JSON: how its arguments and its result are nested.

    {"type": "tuple", "children": [{"type": "leaf"}, {"type": "dict", "context": ["x"], ...}]}

A class is written by its import path. One that cannot be imported where the artifact is loaded
gives way to a dict, if its context is a list of names, or else to a tuple.
"""

from __future__ import annotations

import importlib
import json
from collections import OrderedDict, namedtuple
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..ir import ArtifactError, Graph, InputError
from ..ir.interpret import flatten
from ..ir.types import ScalarType

PLAIN: dict[str, Any] = {"tuple": tuple, "list": list, "dict": dict, "OrderedDict": OrderedDict}
_NAMES = {class_: name for name, class_ in PLAIN.items()}


def spec_to_json(spec: pytree.TreeSpec) -> dict[str, Any]:
    """A tree's structure as JSON values."""
    if spec.is_leaf():
        return {"type": "leaf"}
    children = [spec_to_json(child) for child in spec.children()]
    class_: Any = spec.type
    if class_ in _NAMES:
        found: dict[str, Any] = {"type": _NAMES[class_]}
        if class_ in (dict, OrderedDict):
            found["context"] = [_key(key) for key in spec.context]
        return {**found, "children": children}
    if class_ is namedtuple or _is_namedtuple(class_):
        record = spec.context if class_ is namedtuple else class_
        return {"type": f"namedtuple {_path(record)}", "children": children}
    return {"type": _path(class_), "context": _context(class_, spec.context), "children": children}


def spec_from_json(found: dict[str, Any], notes: list[str]) -> pytree.TreeSpec:
    """A tree's structure again; each class that had to give way adds a note."""
    kind = found["type"]
    if kind == "leaf":
        return pytree.treespec_leaf()
    children = [spec_from_json(child, notes) for child in found["children"]]
    if kind in PLAIN:
        return pytree.TreeSpec(PLAIN[kind], found.get("context"), children)
    path = kind.removeprefix("namedtuple ")
    class_ = _import(path)
    if class_ is None:
        return _instead(path, found.get("context"), children, notes)
    if kind != path:
        return pytree.TreeSpec(namedtuple, class_, children)
    if class_ not in pytree.SUPPORTED_NODES:
        return _instead(path, found.get("context"), children, notes)
    return pytree.TreeSpec(class_, _read_context(class_, found["context"]), children)


def _instead(
    path: str, context: Any, children: list[pytree.TreeSpec], notes: list[str]
) -> pytree.TreeSpec:
    names = context if isinstance(context, list) and len(context) == len(children) else None
    notes.append(
        f"{path} cannot be imported here: a {'dict' if names else 'tuple'} stands in its place"
    )
    if names:
        return pytree.TreeSpec(dict, names, children)
    return pytree.TreeSpec(tuple, None, children)


def _is_namedtuple(class_: Any) -> bool:
    return isinstance(class_, type) and issubclass(class_, tuple) and hasattr(class_, "_fields")


def _path(class_: Any) -> str:
    return f"{class_.__module__}.{class_.__qualname__}"


def _key(key: Any) -> Any:
    if isinstance(key, (str, int, float, bool)):
        return key
    raise ArtifactError(
        f"the model uses {key!r} as a key of a dict, which JSON cannot hold",
        do="let the model return a dict with text as keys",
    )


def _context(class_: Any, context: Any) -> Any:
    serializer = pytree.SUPPORTED_SERIALIZED_TYPES.get(class_)
    to_json = getattr(serializer, "to_dumpable_context", None)
    try:
        found = to_json(context) if callable(to_json) else context
        return json.loads(json.dumps(found))
    except TypeError as error:
        raise ArtifactError(
            f"the structure of {_path(class_)} cannot be written: {error}",
            do="give to_dumpable_context to register_pytree_node, or return a dict",
        ) from None


def _read_context(class_: Any, context: Any) -> Any:
    serializer = pytree.SUPPORTED_SERIALIZED_TYPES.get(class_)
    from_json = getattr(serializer, "from_dumpable_context", None)
    return from_json(context) if callable(from_json) else context


def _import(path: str) -> Any:
    """The class at an import path, or ``None``."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


# -- calling ------------------------------------------------------------------


def constants(graph: Graph, flat: list[Any]) -> dict[str, Any]:
    """The arguments that the trace took as they were: numbers, flags, ``None`` that no op reads."""
    return {
        node.name: value
        for node, value in zip(graph.inputs, flat, strict=True)
        if isinstance(node.type, ScalarType)
        and not node.users
        and (value is None or isinstance(value, (bool, int, float, str)))
    }


def bind(
    graph: Graph, known: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any]:
    """The flat inputs of a call; a positional argument may be named, a sole keyword need not be.

    One that the trace took as a constant must not differ; as a keyword it may be left out.
    """
    if graph.in_spec is not None:
        kwargs = {**_default_kwargs(graph, known), **kwargs}
        args, kwargs = _by_name(graph, args, kwargs)
    flat = flatten(graph, args, kwargs)
    for node, value in zip(graph.inputs, flat, strict=True):
        if node.name in known and not _equal(value, known[node.name]):
            raise InputError(
                f"{node.name}: the model was traced with {known[node.name]!r}, got {value!r}",
                do="compile the model again with this value; it is part of what was compiled",
            )
    return flat


def _by_name(
    graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give each argument the place that the trace had it in, where there is one way to do so."""
    assert graph.in_spec is not None
    positional, named = graph.in_spec.children()
    at = 0
    for index, child in enumerate(positional.children()):
        name = graph.inputs[at].name if at < len(graph.inputs) else ""
        if index == len(args) and child.is_leaf() and name not in (named.context or []):
            if name not in kwargs:
                break
            args, kwargs = (*args, kwargs[name]), {k: v for k, v in kwargs.items() if k != name}
        at += child.num_leaves
    changing = [name for name in named.context or [] if name not in kwargs]
    if len(args) == 1 and not positional.children() and len(changing) == 1:
        return (), {**kwargs, changing[0]: args[0]}
    return args, kwargs


def _default_kwargs(graph: Graph, known: dict[str, Any]) -> dict[str, Any]:
    """The keywords whose whole value is a constant."""
    assert graph.in_spec is not None
    positional, named = graph.in_spec.children()
    found: dict[str, Any] = {}
    at = positional.num_leaves
    for name, child in zip(named.context or [], named.children(), strict=True):
        if child.is_leaf() and (input_name := graph.inputs[at].name) in known:
            found[name] = known[input_name]
        at += child.num_leaves
    return found


def _equal(value: Any, known: Any) -> bool:
    return not isinstance(value, torch.Tensor) and type(value) is type(known) and value == known


def output_names(graph: Graph) -> list[str]:
    """What the user would call each output: ``logits``, ``hidden.1``, or the node's name."""
    if graph.out_spec is not None and not graph.out_spec.is_leaf():
        return tree_names(graph.out_spec)
    return [getattr(arg, "name", repr(arg)) for arg in graph.outputs]


def tree_names(spec: pytree.TreeSpec) -> list[str]:
    """The path to each leaf of a tree, as ``1.hidden.0``."""
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    return [".".join(map(_entry, path)) for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def _entry(key: Any) -> str:
    """One step of a path into a tree: a key, an index or a field's name."""
    return str(next(getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind)))
