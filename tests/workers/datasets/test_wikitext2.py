"""WikiText-2 raw: the joined rows of the usual protocol, whole articles as documents."""

import gzip

from workers.datasets import dataset, wikitext2

FILE = " \n = One = \n \n Text of one . \n \n = = Reception = = \n \n Good . \n \n = Two = \n \n Text of two . \n \n"
ROWS = [line + "\n" if line.strip() else "" for line in FILE.split("\n")[:-1]]


def test_the_text_is_the_hubs_rows_joined(write, places, no_hub):
    write("wikitext-2/wiki.test.raw", FILE)
    documents = wikitext2.load("evaluation", places)
    assert documents.text == "\n\n".join(ROWS)
    assert documents.text != FILE


def test_local_and_hub_agree(write, places, hub):
    write("wikitext-2/wiki.test.raw", FILE)
    local = wikitext2.load("evaluation", places)
    asked = hub(*({"text": row} for row in ROWS))
    assert wikitext2.load("evaluation", places.model_copy(update={"data_dirs": []})) == local
    ((table, split),) = asked
    assert (table.id, table.config, split) == ("Salesforce/wikitext", "wikitext-2-raw-v1", "test")


def test_documents_are_whole_articles(write, places, no_hub):
    write("wikitext-2/wiki.test.raw", FILE)
    one, two = wikitext2.load("evaluation", places).documents
    assert "= One =" in one
    assert "= = Reception = =" in one
    assert two.startswith(" = Two =")


def test_a_common_heading_is_not_taken_for_a_duplicate(write, places, no_hub):
    write("wikitext-2/wiki.test.raw", FILE)
    other = FILE.replace("Text", "Other text").replace("Good", "Bad")
    write("wikitext-2/wiki.train.raw.head.gz", gzip.compress((other + FILE).encode()))
    train, held = wikitext2.load("train", places), wikitext2.load("evaluation", places)
    kept = dataset.without(train, [held])
    assert len(train.documents) == 4
    assert len(kept.documents) == 2
    assert "Reception" in kept.text


def test_line_separators_inside_a_row_end_nothing(write, places, no_hub):
    write("wikitext-2/wiki.test.raw", " = A\u2028B = \n text\x0bmore \n")
    assert wikitext2.load("evaluation", places).text == " = A\u2028B = \n\n\n text\x0bmore \n"


def test_the_real_file(real_places):
    documents = dataset.load("wikitext2", "evaluation", real_places)
    assert documents.text.count("\n\n") >= 4357
    assert len(documents.documents) in range(58, 66)  # 60 articles, and few rows that look like titles
    assert len(documents.text) == 1_294_336
