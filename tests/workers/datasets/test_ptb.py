"""Penn Treebank: sentences, two newlines between."""

import gzip

from workers.datasets import dataset, ptb
from workers.datasets.dataset import Documents


def test_sentences_are_stripped_and_joined(write, places, no_hub):
    write("ptb/ptb.test.txt", " no it was n't \n <unk> N years \n\n")
    write("ptb/ptb.train.txt.gz", gzip.compress(b" aer banknote \n"))
    assert ptb.load("evaluation", places) == Documents(("no it was n't", "<unk> N years"), "\n\n")
    assert ptb.load("train", places).text == "aer banknote"


def test_the_hub_is_asked_for_its_converted_file(places, hub):
    asked = hub({"sentence": "no it was n't"})
    assert ptb.load("evaluation", places).documents == ("no it was n't",)
    ((table, split),) = asked
    assert (table.revision, table.file, split) == ("refs/convert/parquet", "penn_treebank/test/0000.parquet", "test")


def test_the_real_files(real_places):
    evaluation = dataset.load("ptb", "evaluation", real_places)
    assert len(evaluation.documents) == 3761
    train = dataset.load("ptb", "train", real_places)
    assert len(train.documents) == 42068
    assert 41000 < len(dataset.without(train, [evaluation]).documents) < 42068  # short sentences recur
