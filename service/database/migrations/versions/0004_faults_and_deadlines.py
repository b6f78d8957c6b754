"""Whose fault an error is, and how long a stage may take."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_FAULT_OF_CODE = """
    CASE WHEN error_code = 'out_of_memory' THEN 'out_of_memory'
         WHEN error_code IN ('transient', 'worker_lost', 'attempt_broke') THEN 'transient'
         ELSE 'recipe' END
"""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("error_fault", sa.String(length=16), nullable=True))
    op.add_column("jobs", sa.Column("stage_deadline_seconds", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("stage_deadline_at", sa.Double(), nullable=True))
    op.add_column("attempts", sa.Column("error_fault", sa.String(length=16), nullable=True))
    for table in ("jobs", "attempts"):
        op.execute(f"UPDATE {table} SET error_fault = {_FAULT_OF_CODE} WHERE error_code IS NOT NULL")  # noqa: S608


def downgrade() -> None:
    op.drop_column("attempts", "error_fault")
    for column in ("stage_deadline_at", "stage_deadline_seconds", "error_fault"):
        op.drop_column("jobs", column)
