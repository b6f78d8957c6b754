"""What a ratio leaves, of widths and of blocks: arithmetic that the check before queueing and the cut must agree on."""

import math

from workers.errors import RecipeError


def width_kept(hidden_size: int, smallest_multiple: int, ratio: float, round_to: int | None) -> int:
    """d': the multiple of `round_to` nearest to (1 - ratio)·d; by default of what the architecture allows.

    Args:
        hidden_size: d, channels of the dense model.
        smallest_multiple: what every width of this architecture is a multiple of.
    Raises:
        RecipeError: `round_to` does not suit the architecture, or rounding leaves nothing or removes nothing.
    """
    multiple = round_to or smallest_multiple
    if multiple % smallest_multiple:
        message = f"{multiple} is not a multiple of {smallest_multiple}, which this model needs"
        raise RecipeError("method.round_to", message)
    kept = round((1 - ratio) * hidden_size / multiple) * multiple
    if not 0 < kept < hidden_size:
        raise RecipeError(
            "method.ratio",
            f"{ratio} of a width of {hidden_size} rounds to {kept} channels kept (multiples of {multiple}); "
            f"choose a ratio between {multiple / hidden_size:.3g} and {1 - multiple / hidden_size:.3g}",
        )
    return kept


def blocks_removed(blocks: int, ratio: float) -> int:
    """k: how many of a model's blocks a ratio removes; the first and the last are never among them (METHOD §7, SLEB).

    Raises:
        RecipeError: rounding removes nothing, or more than the blocks between the first and the last.
    """
    count, most = round(ratio * blocks), blocks - 2
    if most < 1:
        raise RecipeError(
            "method.kind",
            f"the model has {blocks} blocks, and the first and the last must stay; choose a method that cuts channels",
        )
    if not 1 <= count <= most:
        raise RecipeError(
            "method.ratio",
            f"{ratio} of {blocks} blocks rounds to {count} removed; choose a ratio between {1 / blocks:.3g} and "
            f"{most / blocks:.3g}",
        )
    return count


def width_sliced(hidden_size: int, ratio: float, round_to: int) -> int:
    """d': (1 - ratio)·d rounded down to a multiple of `round_to` (METHOD §7, SliceGPT).

    A ratio of 0 keeps every channel, whatever the multiple.

    Raises:
        RecipeError: nothing would be left.
    """
    if ratio == 0:
        return hidden_size
    kept = math.floor((1 - ratio) * hidden_size / round_to + 1e-9) * round_to  # 0.7·10 is 6.999…
    if kept < 1:
        raise RecipeError(
            "method.round_to",
            f"{1 - ratio:.3g} of a width of {hidden_size} rounds down to no multiple of {round_to}; lower `round_to`",
        )
    return kept
