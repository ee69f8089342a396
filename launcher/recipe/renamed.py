"""Recipe keys that were renamed: errors give the new name, and old run folders can still be read."""

from launcher.recipe.tree import Key, Node, find, put, without

_ANY = ""
"""Stands for a source of any type."""

# A new recipe with an old key is refused, with the new name in the message: one spelling for one thing. The
# recipe in a run folder was right when it was written and nobody should have to edit it, so it is converted.
RENAMED: dict[tuple[str, str, str], str] = {
    ("data", _ANY, "held_out"): "validation_fraction",
    ("data.source", "tokens", "held_out"): "validation",
    ("data.source", "labelled", "held_out"): "validation",
    ("data.source", "digits", "held_out"): "validation_fraction",
    ("data.source", "listops", "held_out_samples"): "validation_samples",
    ("train", _ANY, "eval_every"): "validate_every",
    ("train", _ANY, "eval_sequences"): "validation_sequences",
    ("schedule", _ANY, "final_ratio"): "min_lr_ratio",
}
"""(section, its `type` where that matters, old key) -> new key."""


def new_name(tree: Node, path: tuple[Key, ...]) -> str | None:
    """The current name of an old key; None if it never was a key."""
    section = ".".join(map(str, path[:-1]))
    tag = find(tree, (*path[:-1], "type"))
    kinds = (_ANY, str(tag.value)) if tag is not None else (_ANY,)
    return next((new for kind in kinds if (new := RENAMED.get((section, kind, str(path[-1]))))), None)


def with_new_names(tree: Node) -> Node:
    """A recipe that an earlier version wrote into a run folder, with the current names."""
    for section, _, old in RENAMED:
        path = (*section.split("."), old)
        node, new = find(tree, path), new_name(tree, path)
        if node is not None and new is not None:
            tree = put(without(tree, path), (*path[:-1], new), node)
    return tree
