"""WikiText-2, raw: Wikipedia articles in WikiText's own spacing, rows joined by blank lines as is usual."""

from workers.contracts.places import Places
from workers.datasets.dataset import Documents, Part, articles, lines, local_files, read_text
from workers.datasets.hub import HubTable, hub_rows

_HUB = HubTable("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", config="wikitext-2-raw-v1")

_FILES = {
    # A part of the training file does too, for it is drawn from; the evaluated text must be the whole.
    "train": ("wikitext-2/wiki.train.raw", "wikitext-2/wiki.train.raw.*"),
    "evaluation": ("wikitext-2/wiki.test.raw",),
}
_SPLITS = {"train": "train", "evaluation": "test"}


def load(part: Part, places: Places, path: str | None = None) -> Documents:
    """Whole articles; the text is the hub's rows joined by "\\n\\n", whichever source they came from.

    A row that is not blank keeps its newline, a blank one is empty: the usual protocol, in whose joined text three
    newlines stand where the file has one.

    Raises:
        RecipeError: there is no local copy and none from the hub.
    """
    if files := local_files(places, *_FILES[part]):
        rows = [line if line.strip() else "" for file in files for line in lines(read_text(file))]
    else:
        rows = [row["text"] for row in hub_rows(places, _HUB, _SPLITS[part], " or ".join(_FILES[part]))]
    return articles(rows, separator="\n\n")
