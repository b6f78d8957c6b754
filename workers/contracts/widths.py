"""Which width a ratio leaves: arithmetic that the check before queueing and the cut itself must agree on."""

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
