"""Penn Treebank in Mikolov's form: lower-case sentences, 10,000 words, `<unk>` for the rest and `N` for numbers."""

from workers.contracts.places import Places
from workers.datasets.dataset import Documents, Part, local_files, read_text
from workers.datasets.hub import HubTable, hub_rows

_ID = "ptb-text-only/ptb_text_only"
_REVISION = "refs/convert/parquet"
"""The repository holds a loading script, which is never run; this branch holds the hub's own conversion."""

_FILES = {"train": "ptb/ptb.train.txt", "evaluation": "ptb/ptb.test.txt"}
_SPLITS = {"train": "train", "evaluation": "test"}


def load(part: Part, places: Places, path: str | None = None) -> Documents:
    """Sentences, joined by "\\n\\n".

    Raises:
        RecipeError: there is no local copy and none from the hub.
    """
    if files := local_files(places, _FILES[part]):
        sentences = [line for file in files for line in read_text(file).split("\n")]
    else:
        split = _SPLITS[part]
        table = HubTable(_ID, _REVISION, file=f"penn_treebank/{split}/0000.parquet")
        sentences = [row["sentence"] for row in hub_rows(places, table, split, _FILES[part])]
    return Documents(tuple(stripped for line in sentences if (stripped := line.strip())), separator="\n\n")
