"""What is kept of what workers tell: figures that are none, and text that no database takes."""

from hypothesis import given
from hypothesis import strategies as st

from service.database.session import Database
from service.plain import storable
from tests.service.test_queue import apply, enqueue, history, lease, read
from workers.contracts.events import Failed, Notice
from workers.contracts.recipe import Recipe


@given(st.text(st.characters() | st.just("\0") | st.just("\ud800")))
def test_text_becomes_storable_and_stays_what_it_was(given_text: str) -> None:
    kept = storable(given_text)
    assert "\0" not in kept and len(kept) == len(given_text) and storable(kept) == kept
    kept.encode("utf-8")
    if "\0" not in given_text and not any("\ud800" <= letter <= "\udfff" for letter in given_text):
        assert kept == given_text


def test_what_no_database_keeps_does_not_keep_an_attempt_from_ending(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    apply(database, held, Notice(message="half a letter: \ud800"))
    apply(database, held, Failed(fault="recipe", code="invalid_recipe", message="bytes of a file: \0\0"), first=2)
    job = read(database, job_id)
    assert (job.status, job.error_message) == ("failed", "bytes of a file: \ufffd\ufffd")
    assert "half a letter: ?" in [event.body.get("message") for event in history(database, job_id)]
