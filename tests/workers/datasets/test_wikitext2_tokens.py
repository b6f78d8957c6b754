"""WikiText-2 tokenized: the file as it stands, from wherever it comes."""

from pathlib import Path

from workers.datasets import dataset, wikitext2_tokens

FILE = " \n = One = \n \n Text of <unk> . \n \n = Two = \n \n Text of two . \n \n"


def test_the_text_is_the_file(write, places, no_hub):
    write("wikitext-2/wiki.test.tokens", FILE)
    documents = wikitext2_tokens.load("evaluation", places)
    assert documents.text == FILE
    assert len(documents.documents) == 2


def test_the_hubs_rows_give_the_same_file(places, hub):
    asked = hub(*({"text": line + "\n" if line.strip() else ""} for line in FILE.split("\n")[:-1]))
    assert wikitext2_tokens.load("train", places).text == FILE
    assert asked[0][0].config == "wikitext-2-v1"


def test_the_real_files(real_places):
    evaluation = dataset.load("wikitext2_tokens", "evaluation", real_places)
    file = Path(real_places.data_dirs[0]) / "wikitext-2/wiki.test.tokens"
    assert evaluation.text == file.read_text(encoding="utf-8")
    train = dataset.load("wikitext2_tokens", "train", real_places)
    assert len(train.documents) >= 600
    assert dataset.without(train, [evaluation]).documents == train.documents
