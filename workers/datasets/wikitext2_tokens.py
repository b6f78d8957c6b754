"""WikiText-2, tokenized variant: rare words are `<unk>`, and the text is the file as it stands."""

from workers.contracts.places import Places
from workers.datasets.dataset import Documents, Part, articles, lines, local_files, read_text
from workers.datasets.hub import HubTable, hub_rows

_HUB = HubTable("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", config="wikitext-2-v1")

_FILES = {"train": "wikitext-2/wiki.train.tokens", "evaluation": "wikitext-2/wiki.test.tokens"}
_SPLITS = {"train": "train", "evaluation": "test"}


def load(part: Part, places: Places, path: str | None = None) -> Documents:
    """Whole articles, nothing between them.

    Raises:
        RecipeError: there is no local copy and none from the hub.
    """
    if files := local_files(places, _FILES[part]):
        rows = [line for file in files for line in lines(read_text(file))]
    else:
        # The hub empties blank rows, which are " \n" in the file.
        rows = [row["text"] or " \n" for row in hub_rows(places, _HUB, _SPLITS[part], _FILES[part])]
    return articles(rows, separator="")
