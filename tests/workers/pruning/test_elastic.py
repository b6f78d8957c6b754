"""Widths are drawn evenly and by the step alone, and a masked pass is the model cut at that width."""

from __future__ import annotations

from collections import Counter

import torch

from tests.conftest import tiny_llama
from workers.models.family import family_of
from workers.models.width import Width
from workers.pruning.cut import zero_removed
from workers.pruning.elastic import ElasticWidths

WIDTHS = [16, 20, 24, 28]
CPU = torch.device("cpu")


def widths_of(elastic: ElasticWidths) -> list[int]:
    mask = elastic.masked(torch.ones(8, 1, 32))
    return mask.sum(-1).flatten().int().tolist()


def test_the_step_decides_the_widths_and_all_come_equally_often() -> None:
    elastic, again = (ElasticWidths(WIDTHS, 32, seed=3, centred=False) for _ in range(2))
    drawn = []
    for step in range(20):
        elastic.before_step(step)
        elastic.draw(8, CPU)
        drawn.append(widths_of(elastic))
    again.before_step(13)
    again.draw(8, CPU)
    assert widths_of(again) == drawn[13]
    assert len({tuple(row) for row in drawn}) > 1
    counts = Counter(width for row in drawn for width in row)
    assert counts == {width: 40 for width in WIDTHS}


@torch.no_grad()
def test_a_masked_pass_is_the_zeroed_model_and_evaluation_is_not_masked() -> None:
    model = tiny_llama()
    family = family_of(model.config)
    ids = torch.randint(300, (4, 12), generator=torch.Generator().manual_seed(0))
    whole = model(input_ids=ids).logits
    elastic = ElasticWidths([20], 32, seed=0, centred=False)
    with elastic.riding(model, family):
        elastic.before_step(0)
        masked = model.train()(input_ids=ids).logits
        assert torch.equal(model.eval()(input_ids=ids).logits, whole)
    assert torch.equal(model.train()(input_ids=ids).logits, whole)
    zero_removed(model, family, Width(20), centred=False)
    assert (masked - model(input_ids=ids).logits).abs().max() < 1e-5
    assert (masked - whole).abs().max() > 1e-2
