"""A job's figures: its records fetched from the store, drawn, and put beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from workers.contracts.records import PreservedRecord, TrainingRecord
from workers.contracts.results import StoredFile
from workers.contracts.store import ArtifactStore
from workers.figures.job import JobRecords, job_figures
from workers.figures.rendering import FORMS, rendered

FIGURES = "figures"
"""The folder in the job's artifact."""

PRESERVED = "records/preserved_ratios.json"

log = logging.getLogger(__name__)


def drawn(records: Sequence[StoredFile], store: ArtifactStore, workspace: Path) -> list[StoredFile]:
    """`figures/<name>.svg` and `.png`, already in the store; none if the records cannot be drawn.

    A figure must never cost the model that hours went into: what goes wrong is logged, and the job goes on.
    """
    if not records:
        return []
    try:
        for stored in records:
            store.fetch(stored, workspace)
        figures = job_figures(_read(records, workspace))
        folder = workspace / FIGURES
        folder.mkdir(exist_ok=True)
        files = []
        for name, figure in figures.items():
            for form in FORMS:
                file = folder / f"{name}.{form}"
                file.write_bytes(rendered(figure, form))
                files.append(store.put(file, f"{FIGURES}/{file.name}"))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        log.exception("the job's figures cannot be drawn from its records")
        return []
    return files


def _read(records: Sequence[StoredFile], folder: Path) -> JobRecords:
    training, preserved = [], None
    for stored in records:
        plain = json.loads((folder / stored.path).read_text("utf-8"))
        if stored.path == PRESERVED:
            preserved = PreservedRecord.model_validate(plain)
        else:
            training.append(TrainingRecord.model_validate(plain))
    return JobRecords(training, preserved)
