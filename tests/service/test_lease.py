"""The rules by which a failed attempt is followed by another."""

from typing import get_args

import pytest

from service.domain.lease import RETRIED_BY, RetryRules, is_retryable
from workers.errors import FaultClass


def test_retry_waits_double_up_to_the_cap() -> None:
    rules = RetryRules(max_attempts=9, first_wait_seconds=1, longest_wait_seconds=5)
    assert [rules.wait_seconds(attempts) for attempts in (1, 2, 3, 4, 500)] == [1, 2, 4, 5, 5]


@pytest.mark.parametrize(("fault", "allowed"), [("recipe", 0), ("out_of_memory", 0), ("transient", 5), ("deadline", 2)])
def test_each_class_of_fault_has_its_rule(fault: FaultClass, allowed: int) -> None:
    rules = RetryRules(max_attempts=5, max_overruns=2)
    attempts = next(attempts for attempts in range(1, 99) if not rules.allow_another(attempts, fault))
    assert attempts == max(allowed, 1)
    assert is_retryable(fault) == bool(allowed)


def test_no_class_is_forgotten() -> None:
    assert set(RETRIED_BY) == set(get_args(FaultClass))
