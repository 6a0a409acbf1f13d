"""A tree of labels, and how labels are coarsened along it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.split.sizes import named

ROOT = "root"


@dataclass(frozen=True)
class Hierarchy:
    """A directed rooted tree whose leaves are labels (Cole et al. 2022, "On label granularity", section 3).

    Parameters
    ----------
    parent
        The parent of every node but the root, which is the one parent that has none.

    Raises
    ------
    ValueError
        When there is no root or more than one, or nodes are their own ancestors.

    Examples
    --------
    >>> tree = Hierarchy.from_levels(["Egypt", "Mali", "Peru"], {"region": ["North Africa", "West Africa", "Andes"],
    ...                                                          "continent": ["Africa", "Africa", "Americas"]})
    >>> tree.coarsen(["Egypt", "Mali"], 1), tree.coarsen(["Egypt", "Mali", "Peru"], 2)
    (['region: North Africa', 'region: West Africa'], ['continent: Africa', 'continent: Africa', 'continent: Americas'])
    """

    parent: Mapping[str, str]

    def __post_init__(self) -> None:
        roots = sorted(set(self.parent.values()) - self.parent.keys())
        if len(roots) != 1:
            raise ValueError(f"a hierarchy has one root, this one has {len(roots)}: {named(roots)}")
        for node in self.parent:
            seen = {node}
            while node in self.parent:
                node = self.parent[node]
                if node in seen:
                    raise ValueError(f"{node!r} is its own ancestor")
                seen.add(node)

    @classmethod
    def from_levels(cls, leaves: Sequence[str], levels: Mapping[str, Sequence[str]]) -> Hierarchy:
        """The tree of a table: one row a leaf, one column a level, from the one next to the leaves to the coarsest.

        A node above the leaves is named ``level: name``, since the same name may occur on two levels (Antarctica does). A name
        that occurs below several parents is a node below each, named ``level: name (parent)`` but for the most frequent
        one: South Georgia is of the region South America, and of the continent Antarctica.

        Raises
        ------
        ValueError
            When columns differ in length, or a leaf has two parents.
        """
        for level, names in levels.items():
            if len(names) != len(leaves):
                raise ValueError(f"{len(leaves)} leaves, but {len(names)} names of the level {level}")
        above = [ROOT] * len(leaves)
        parent: dict[str, str] = {}
        for level, names in reversed(list(levels.items())):
            counts = Counter(zip(names, above, strict=True))
            usual = {name: most for (name, most), _ in reversed(counts.most_common())}
            nodes = [
                f"{level}: {name}" if usual[name] == parent_of else f"{level}: {name} ({parent_of.rpartition(': ')[2]})"
                for name, parent_of in zip(names, above, strict=True)
            ]
            parent.update(zip(nodes, above, strict=True))
            above = nodes
        for leaf, parent_of in zip(leaves, above, strict=True):
            if parent.setdefault(leaf, parent_of) != parent_of:
                raise ValueError(f"{leaf!r} has two parents: {parent[leaf]!r} and {parent_of!r}")
        return cls(parent)

    @cached_property
    def root(self) -> str:
        return next(iter(set(self.parent.values()) - self.parent.keys()))

    @cached_property
    def leaves(self) -> list[str]:
        """Nodes without children, sorted."""
        return sorted(self.parent.keys() - set(self.parent.values()))

    @property
    def is_consistent(self) -> bool:
        """Whether all leaves have the same depth, so that as many steps lead to the same level from each."""
        return len({self.depth(leaf) for leaf in self.leaves}) <= 1

    def path(self, node: str) -> list[str]:
        """The node, its parent, and so on to the root.

        Raises
        ------
        ValueError
            When the tree has no such node.
        """
        if node != self.root and node not in self.parent:
            raise ValueError(f"the hierarchy has no node {node!r}")
        nodes = [node]
        while nodes[-1] in self.parent:
            nodes.append(self.parent[nodes[-1]])
        return nodes

    def depth(self, node: str) -> int:
        """Edges between the node and the root."""
        return len(self.path(node)) - 1

    def coarsen(self, labels: Sequence[str], k: int | Mapping[str, int]) -> list[str]:
        """The coarsening operator c_k: the node k edges nearer the root, the root itself where k is the depth or more.

        Parameters
        ----------
        labels
            Nodes of the tree.
        k
            Edges; of each label its own, where it is a mapping.

        Raises
        ------
        ValueError
            When labels are not in the tree, k is negative, or a node that is used is a descendant of another one.
        """
        distinct = sorted(set(labels))
        unknown = [label for label in distinct if label != self.root and label not in self.parent]
        if unknown:
            raise ValueError(f"{len(unknown)} labels are not in the hierarchy: {named(unknown)}")
        coarse = {}
        for label in distinct:
            steps = k if isinstance(k, int) else k[label]
            if steps < 0:
                raise ValueError(f"labels are coarsened by 0 edges or more, got {steps} for {label!r}")
            path = self.path(label)
            coarse[label] = path[min(steps, len(path) - 1)]
        used = set(coarse.values())
        below = sorted(node for node in used if used.intersection(self.path(node)[1:]))
        if below:
            raise ValueError(f"{len(below)} nodes are descendants of others that are used: {named(below)}")
        return [coarse[label] for label in labels]


def read_hierarchy(path: Path) -> Hierarchy:
    """The tree of a CSV file with the columns ``name`` and ``parent``, one row a node but the root.

    Raises
    ------
    ValueError
        When the file cannot be read, lacks a column, or a node has two parents.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the hierarchy {path} cannot be read: {error}") from None
    if not rows or not {"name", "parent"} <= rows[0].keys():
        raise ValueError(f"the hierarchy {path} needs the columns name and parent")
    parent: dict[str, str] = {}
    for row in rows:
        if parent.setdefault(row["name"], row["parent"]) != row["parent"]:
            raise ValueError(f"{row['name']!r} has two parents in {path}")
    return Hierarchy(parent)
