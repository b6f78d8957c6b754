"""Measure what a model makes of zero-shot tasks, each by itself, by lm-eval around the model as it is loaded here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from workers import checkpoints
from workers.contracts.events import Notice, Progress
from workers.contracts.results import Measurement, Subject
from workers.contracts.tasks import PAPER_ZERO_SHOT, TaskFigure, mean_figure
from workers.stages.evaluate import arithmetic
from workers.stages.outcome import Outcome, StageRun
from workers.workbench import Workbench

if TYPE_CHECKING:
    from workers.tasks.harness import Examiner


class Examination:
    """A `Meter` of tasks; weights and arithmetic are those of the perplexities (see `evaluate`)."""

    def __init__(self, bench: Workbench, subject: Subject, folder: Callable[[], Path]) -> None:
        """`folder`: where the model lies; asked for when something is measured, since it may have to be fetched."""
        self._bench, self._subject, self._folder = bench, subject, folder

    def measure(self, part: str) -> StageRun:
        """The task of this name; of a group or tag of lm-eval each of its tasks.

        Raises:
            RecipeError: an answer is longer than the model's context.
        """
        from workers.tasks.harness import examine  # takes seconds, and most jobs ask for no task

        examiner, before = self._examiner, self._examiner.truncated
        figures = examine(examiner, self._bench.tasks[part], self._bench.recipe.seed)
        metrics = {f"{each.metric}.{name}": each.value for name, each in figures.items() if each.value is not None}
        names = list(self._bench.tasks)
        place = names.index(part) + 1
        yield Progress(stage="zero_shot", subject=self._subject, step=place, steps=len(names), metrics=metrics)
        if truncated := examiner.truncated - before:
            yield Notice(
                message=f"{part}: {truncated} requests were longer than the model's context of {examiner.max_length} "
                "tokens and lost their beginning"
            )
        return Outcome(measurements={self._subject: Measurement(tasks=figures)})

    def together(self, found: Mapping[str, Measurement]) -> Measurement:
        """See `Meter.together`; with the mean of the paper's five if the recipe names them so."""
        figures: dict[str, TaskFigure] = {}
        for each in found.values():
            figures |= each.tasks or {}
        if any(task.name == PAPER_ZERO_SHOT for task in self._bench.recipe.evaluate.tasks):
            figures[PAPER_ZERO_SHOT] = mean_figure(figures)
        return Measurement(tasks=figures)

    @cached_property
    def _examiner(self) -> Examiner:
        from workers.tasks.harness import Examiner  # as in `measure`

        bench = self._bench
        model = checkpoints.load_model(self._folder(), bench.export_dtype, bench.device).to(arithmetic(bench)).eval()
        tokenizer = checkpoints.load_tokenizer(bench.dense_folder)
        return Examiner(model, tokenizer, bench.recipe.evaluate.tasks_batch_size)
