"""Which edits of a log stand: people agree on them, and none is taken back by a later one."""

from __future__ import annotations

from collections.abc import Sequence

from .edits import ClassEdit, Edit, JoinEdit


def in_force(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that no later edit on the same soma replaces, in their order.

    A class replaces a class, and another verdict another verdict; joins add up.
    """
    later: dict[tuple[int, bool], bool] = {}  # whether the edit that stands is a join
    standing = []
    for edit in reversed(edits):
        keys = [(soma, isinstance(edit, ClassEdit)) for soma in edit.somas]
        joins = isinstance(edit, JoinEdit)
        if all(joins and later[key] for key in keys if key in later):
            later |= dict.fromkeys(keys, joins)
            standing.append(edit)
    return standing[::-1]


def joined(edits: Sequence[JoinEdit]) -> dict[int, int]:
    """Return the lowest id of the somas that become one, for each of the others."""
    first: dict[int, int] = {}

    def root(soma: int) -> int:
        while first.get(soma, soma) != soma:
            soma = first[soma]
        return soma

    for edit in edits:
        roots = sorted({root(soma) for soma in edit.ids})
        first |= dict.fromkeys(roots, roots[0])
        first |= {soma: root(soma) for soma in edit.ids}
    return {soma: root(soma) for soma in sorted(first) if root(soma) != soma}
