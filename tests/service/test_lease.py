"""The rules by which a failed attempt is followed by another."""

from service.domain.lease import RetryRules


def test_retry_waits_double_up_to_the_cap() -> None:
    rules = RetryRules(max_attempts=9, first_wait_seconds=1, longest_wait_seconds=5)
    assert [rules.wait_seconds(attempts) for attempts in (1, 2, 3, 4, 500)] == [1, 2, 4, 5, 5]
