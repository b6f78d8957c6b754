"""A plain UTF-8 file of one's own."""

import re

from workers.contracts.places import Places
from workers.datasets.dataset import Documents, Part, read_text
from workers.errors import RecipeError

_PARAGRAPH = re.compile(r".+?(?:\n(?:[^\S\n]*\n)+|\Z)", re.DOTALL)
"""Up to and including the blank lines that follow."""


def load(part: Part, places: Places, path: str | None = None) -> Documents:
    """The file's paragraphs with the blank lines that follow them, nothing between: the text is the file as it stands.

    Both parts are the whole file: what is evaluated on is taken out of what is trained on paragraph by paragraph.

    Raises:
        RecipeError: the file is missing, outside the allowed folders, or not UTF-8.
    """
    if path is None:
        raise RecipeError("data.path", "a `text` needs the path of a file")
    return Documents(tuple(_PARAGRAPH.findall(read_text(places.text_file(path)))), separator="")
