"""Channels that a permutation must move together, as coordinates of their own.

A tie says that two coordinates change alike: where the one goes, the other goes beside it. So what
is tied makes a bundle, and bundles of the same build can be exchanged: each member takes the place
of the other's member of the same rank.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..laws import Action
from ..laws.core import colours
from .region import Blocked, Refused, Region


def join_tied(region: Region) -> None:
    """Let a region of permutations have the bundles for its coordinates."""
    if not region.ties:
        return
    ties = [(a[a >= 0].long(), b[b >= 0].long()) for a, b in region.ties]
    if region.inserted or region.restores:
        text = "channels that move together are moved by no op"
        raise Refused(Blocked(region.value, text))
    left, right = (np.concatenate([tie[side].numpy() for tie in ties]) for side in (0, 1))
    edges = coo_array((np.ones(len(left)), (left, right)), shape=(region.size, region.size))
    bundle = torch.from_numpy(connected_components(edges, directed=False)[1]).long()
    size = int(bundle.max()) + 1
    counts = torch.bincount(bundle, minlength=size)
    order = torch.argsort(bundle, stable=True)
    rank = torch.empty_like(bundle)
    rank[order] = torch.arange(region.size) - (counts.cumsum(0) - counts)[bundle[order]]
    # Bundles are of one build if their members have the same colours and stand in the same order
    # in every value and on both sides of every tie.
    build = [colours(bundle, region.colours(cells), size) for cells in region.cells]
    build += [colours(bundle[side], rank[side], size) for tie in ties for side in tie]
    region.cells = [counts, *build]
    region.size = size
    known: dict[tuple[tuple[int, ...], bytes], torch.Tensor] = {}

    def joined(action: Action) -> Action:
        labels = action.labels
        key = (tuple(labels.shape), labels.contiguous().numpy().tobytes())
        if key not in known:
            held = labels.long().clamp(min=0)
            known[key] = torch.where(labels < 0, -1, bundle[held]).int()
            region.cells.append(colours(known[key], rank[held], size))
        return replace(action, labels=known[key])

    region.actions = {value: joined(action) for value, action in region.actions.items()}
    region.edits = {
        key: replace(edit, action=joined(edit.action)) for key, edit in region.edits.items()
    }
    region.ties = []
