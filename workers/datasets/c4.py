"""C4: cleaned English web pages."""

from workers.contracts.places import Places
from workers.datasets.dataset import Documents, Part, distinct, is_held_out, local_files, read_json_rows
from workers.datasets.hub import HubTable, hub_rows
from workers.errors import RecipeError

_ID = "allenai/c4"
_REVISION = "1588ec454efa1a09f29cd18ddd04fe05fc8653a2"
_FILES = "c4/*.jsonl"

_TABLES = {
    "train": HubTable(_ID, _REVISION, file="en/c4-train.00000-of-01024.json.gz"),
    "evaluation": HubTable(_ID, _REVISION, file="en/c4-validation.00000-of-00008.json.gz"),
}
_SPLITS = {
    # About 20 million tokens: enough for ten thousand sequences of 2,048, and tokenized in a minute.
    "train": "train[:40000]",
    # The pages on which the pruning papers measure.
    "evaluation": "validation[:1100]",
}


def load(part: Part, places: Places, path: str | None = None) -> Documents:
    """Whole pages, joined by "\\n\\n".

    Local files have no parts of their own: a tenth, chosen by digest, is kept for evaluation. From the hub come the
    first pages of the first training shard, and of the first validation shard.

    Raises:
        RecipeError: there is no local copy and none from the hub, or a row has no text.
    """
    if files := local_files(places, _FILES):
        rows = [row for file in files for row in read_json_rows(file)]
        pages = [page for page in map(_page, rows) if is_held_out(page) == (part == "evaluation")]
    else:
        pages = [_page(row) for row in hub_rows(places, _TABLES[part], _SPLITS[part], _FILES)]
    return Documents(tuple(distinct(page for page in pages if page.strip())), separator="\n\n")


def _page(row: dict[str, object]) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise RecipeError("data.name", f"c4: a row has no `text`: {str(row)[:200]}")
    return text
