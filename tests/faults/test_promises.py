"""The checker on histories written by hand: silent on a good one, and not on any of those with a single thing wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.history import Fact
from tests.faults.promises import LONGEST_SECONDS, Unfinished, judged
from tests.faults.staged_pipeline import STAGES

KILLED_AT = 12.0


class Recording:
    """Writes a history as a campaign does: a job whose first worker is killed in its first stage, and one cancelled."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._events: dict[str, int] = {}
        self._submit("job_1", seed=7)
        self._submit("job_2", seed=8)
        self._begin("job_1", "att_1", 1, 11.0)
        self._told("job_1", "att_1", 1, 11.5, type="stage_started", stage=STAGES[0])
        self.add("told", job="job_1", attempt="att_1", sequence=2, type="progress", stage=STAGES[0], step=1)
        self.add("fault", at=KILLED_AT, kind="kill_attempt", number=1, jobs=["job_1"], attempts=["att_1"],
                 stages=[STAGES[0]], ends_attempt=True, in_flight=20)  # fmt: skip
        self.event("job_1", "att_1", 12.5, "job_requeued")
        self._row("attempts", id="att_1", job_id="job_1", number=1, outcome="lost", last_sequence=1)
        self.status("job_1", "running", "queued")
        self._succeed("job_1", "att_2", 7)
        self.add("wish", job="job_2", verb="cancel")
        self.add("granted", job="job_2", verb="cancel", status=200)
        self.event("job_2", None, 15.0, "job_cancelled")
        self.status("job_2", "queued", "cancelled")
        for job_id, seed, status in (("job_1", 7, "succeeded"), ("job_2", 8, "cancelled")):
            self.add("seen", job=job_id, status=status)
            self._row("jobs", id=job_id, status=status, error_code=None, recipe={"seed": seed},
                      metadata_={"key": f"key of {job_id}"}, results={"pruned": {"parameters": seed}},
                      last_event=self._events[job_id])  # fmt: skip
        self.add("end", workers=[], processes=[])

    def add(self, what: str, **fields: Any) -> None:
        self.facts.append({"what": what, "at": 10.0, **fields})

    def event(self, job_id: str, attempt_id: str | None, moment: float, type: str, **body: Any) -> None:
        """A row of the events, with the job's next number."""
        number = self._events[job_id] = self._events.get(job_id, 0) + 1
        self._row("events", job_id=job_id, number=number, type=type, moment=moment, attempt_id=attempt_id, body=body)

    def status(self, job_id: str, before: str, after: str) -> None:
        """What the database noted of a change of status."""
        self.add("audit", change="status", subject=job_id, before=before, after=after, until=None, moment=0.0)

    def _row(self, table: str, **values: Any) -> None:
        self.add("row", table=table, **values)

    def _submit(self, job_id: str, seed: int) -> None:
        self.add("post", key=f"key of {job_id}", seed=seed)
        self.add("posted", key=f"key of {job_id}", job=job_id, replayed=False)
        self.event(job_id, None, 10.0, "job_queued")

    def _begin(self, job_id: str, attempt_id: str, number: int, moment: float) -> None:
        self.event(job_id, attempt_id, moment, "attempt_started", number=number)
        self.status(job_id, "queued", "running")

    def _told(self, job_id: str, attempt_id: str, sequence: int, moment: float, type: str, **body: Any) -> None:
        self.add("told", job=job_id, attempt=attempt_id, sequence=sequence, type=type, **body)
        files = [{"sha256": file, "path": "model", "size_bytes": 3} for file in body.get("files", ())]
        self.event(job_id, attempt_id, moment, type, **{**body, **({"files": files} if files else {})})

    def _succeed(self, job_id: str, attempt_id: str, seed: int) -> None:
        """A whole attempt."""
        self._begin(job_id, attempt_id, 2, 13.0)
        sequence = 0
        for stage in STAGES:
            file = f"digest of {stage}"
            self.add("stored", job=job_id, attempt=attempt_id, files=[file])
            for type, body in (("stage_started", {}), ("artifact_stored", {"files": [file]}), ("stage_finished", {})):
                sequence += 1
                self._told(job_id, attempt_id, sequence, 13.0 + sequence / 10, type, stage=stage, **body)
            self._row("artifacts", job_id=job_id, path=f"{stage}.weights", sha256=file, size_bytes=3)
            self.add("file", sha256=file, digest=file, size_bytes=3)
        self._told(job_id, attempt_id, sequence + 1, 14.5, "pipeline_succeeded")
        self.event(job_id, attempt_id, 14.5, "job_succeeded")
        self.status(job_id, "running", "succeeded")
        self._row("attempts", id=attempt_id, job_id=job_id, number=2, outcome="succeeded", last_sequence=sequence + 1)


def find(facts: list[Fact], **wanted: Any) -> Fact:
    """The first fact with these values."""
    return next(fact for fact in facts if wanted.items() <= fact.items())


def changed(values: dict[str, Any], **wanted: Any) -> Callable[[list[Fact]], None]:
    """The first fact with the wanted values gets others."""
    return lambda facts: find(facts, **wanted).update(values)


def removed(**wanted: Any) -> Callable[[list[Fact]], None]:
    return lambda facts: facts.remove(find(facts, **wanted))


def repeated(values: dict[str, Any], **wanted: Any) -> Callable[[list[Fact]], None]:
    """The first fact with the wanted values is there once more, with others."""
    return lambda facts: facts.insert(facts.index(find(facts, **wanted)) + 1, {**find(facts, **wanted), **values})


def told_before_stored(facts: list[Fact]) -> None:
    stored = find(facts, what="stored")
    facts.remove(stored)
    facts.insert(facts.index(find(facts, what="told", type="artifact_stored")) + 1, stored)


def event_left_out(facts: list[Fact]) -> None:
    """Of those committed; the others close the gap, so that the numbers look whole."""
    left_out = find(facts, table="events", type="stage_finished")
    facts.remove(left_out)
    for fact in facts:
        if fact.get("table") == "events" and fact["job_id"] == "job_1" and fact["number"] > left_out["number"]:
            fact["number"] -= 1
    find(facts, table="jobs", id="job_1")["last_event"] -= 1
    find(facts, table="attempts", id="att_2")["last_sequence"] -= 1


def recovered_late(facts: list[Fact]) -> None:
    for fact in facts:
        if fact.get("table") == "events" and fact["moment"] > KILLED_AT:
            fact["moment"] += LONGEST_SECONDS


AUDIT = {"what": "audit", "change": "status", "subject": "job_1", "before": "queued", "after": "running"}
TAKEN = {"change": "lease_taken", "before": "one", "after": "other", "until": 5.0, "moment": 4.0}
WRONG: dict[str, tuple[Callable[[list[Fact]], None], str]] = {
    "a job is gone": (removed(what="row", table="jobs", id="job_2"), "lost: job_2 was answered 201"),
    "a job failed": (changed({"status": "failed"}, table="jobs", id="job_1"), "lost: job_1 failed"),
    "a wish was forgotten": (changed({"status": "succeeded"}, table="jobs", id="job_2"), "lost: job_2 is succeeded"),
    "another try was forgotten": (
        lambda facts: facts.extend([{"what": "granted", "at": 0.0, "job": "job_2", "verb": "retry", "status": 200}]),
        "lost: job_2 is cancelled",
    ),
    "another try that nobody wished": (
        repeated({"before": "cancelled", "after": "queued", "subject": "job_2"}, **AUDIT), "duplicate: job_2 went",
    ),
    "nobody wished it": (removed(what="wish"), "lost: job_2 was cancelled"),
    "one key, two jobs": (repeated({"id": "job_3"}, table="jobs", id="job_1"), "duplicate: the key"),
    "another's recipe": (changed({"recipe": {"seed": 9}}, table="jobs", id="job_1"), "duplicate: job_1 is not what"),
    "another's results": (
        changed({"results": {"pruned": {"parameters": 9}}}, table="jobs", id="job_1"), "duplicate: job_1 has the res",
    ),
    "two successes": (repeated({}, change="status", after="succeeded"), "duplicate: job_1 succeeded 2 times"),
    "a success told twice": (repeated({}, table="events", type="job_succeeded"), "duplicate: job_1 succeeded 2 times"),
    "out of a final state": (repeated({"before": "succeeded", "after": "queued"}, **AUDIT), "duplicate: job_1 went"),
    "a number is missing": (removed(table="events", type="stage_finished"), "gap: the events of job_1 are numbered"),
    "an event is missing": (event_left_out, "gap: what is committed of att_2 is not what it told"),
    "a number is there twice": (repeated({}, table="events", type="stage_finished"), "gap: the events of job_1"),
    "success without a word": (changed({"outcome": "succeeded"}, id="att_1"), "gap: att_1 succeeded without"),
    "after its end": (
        changed({"attempt_id": "att_1"}, table="events", type="stage_finished"), "zombie: stage_finished (event",
    ),
    "another outcome": (
        repeated({"change": "outcome", "before": "lost", "after": "failed", "subject": "att_1"}, **AUDIT),
        "zombie: att_1 was lost and became failed",
    ),
    "attempts side by side": (
        changed({"attempt_id": None}, table="events", type="job_requeued"), "zombie: job_1 has attempts beside",
    ),
    "an event was edited": (repeated({"change": "event_edited"}, **AUDIT), "zombie: an event of job_1 was changed"),
    "told before stored": (told_before_stored, "artifact: att_2 told of"),
    "a file is gone": (removed(what="file"), "artifact: regularize.weights of job_1 is not in the store"),
    "a file is damaged": (changed({"digest": "other"}, what="file"), "artifact: regularize.weights of job_1 is dam"),
    "a file is not listed": (removed(table="artifacts"), "artifact: job_1 succeeded with 2 files"),
    "a lease in force is taken": (repeated(TAKEN, **AUDIT), "lease: other took job_1 from one, 1.000 s too soon"),
    "still running": (changed({"status": "running"}, table="jobs", id="job_1"), "stuck: job_1 is running"),
    "an attempt without end": (changed({"outcome": None}, id="att_1"), "stuck: att_1 has not ended"),
    "a late recovery": (recovered_late, "stuck: job_1 did not recover from kill_attempt"),
    "a worker is left": (changed({"workers": ["att_1"]}, what="end"), "leaked: workers of"),
    "a process is left": (changed({"processes": [7]}, what="end"), "leaked: 1 processes"),
}  # fmt: skip


def test_a_good_history_is_good():
    verdict = judged(Recording().facts)
    assert verdict.broken == []
    assert verdict.counted == {"kill_attempt": 1} and verdict.stages == {STAGES[0]: 1}
    assert verdict.recoveries == {"kill_attempt": [1.0]}, "from the kill to the next attempt, not to its being noticed"
    assert (verdict.jobs, verdict.attempts, verdict.least_in_flight) == (2, 2, 20)


@pytest.mark.parametrize("name", WRONG)
def test_one_thing_wrong_is_seen(name: str) -> None:
    facts = copy.deepcopy(Recording().facts)
    alter, complaint = WRONG[name]
    alter(facts)
    assert [told for told in judged(facts).broken if told.startswith(complaint)], judged(facts).broken


def test_another_try_may_lead_out_of_a_final_state():
    facts = Recording().facts
    repeated({"before": "cancelled", "after": "queued", "subject": "job_2"}, **AUDIT)(facts)
    repeated({"verb": "retry"}, what="wish")(facts)
    assert judged(facts).broken == []


def test_a_fault_that_hit_nothing_does_not_count():
    facts = Recording().facts
    find(facts, what="fault")["at"] = 100.0
    verdict = judged(facts)
    assert verdict.faults == {"kill_attempt": 1} and verdict.counted == {} and verdict.broken == []


def test_under_a_stepped_clock_nothing_is_timed():
    facts = Recording().facts
    recovered_late(facts)
    verdict = judged(facts, is_timed=False)
    assert verdict.broken == [] and verdict.recoveries == {} and verdict.counted == {"kill_attempt": 1}


def test_a_history_that_breaks_off_says_nothing():
    with pytest.raises(Unfinished):
        judged(Recording().facts[:-1])
