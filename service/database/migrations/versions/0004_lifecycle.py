"""Faults by class, deadlines of stages, and what is kept for how long."""

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
    op.add_column("jobs", sa.Column("artifacts_removed_at", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("held_until", sa.Double(), nullable=True))
    op.add_column("attempts", sa.Column("error_fault", sa.String(length=16), nullable=True))
    for table in ("jobs", "attempts"):
        op.execute(f"UPDATE {table} SET error_fault = {_FAULT_OF_CODE} WHERE error_code IS NOT NULL")  # noqa: S608  both are constants of this file
    op.create_index(op.f("ix_artifacts_sha256"), "artifacts", ["sha256"], unique=False)
    op.create_table(
        "condemned",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("condemned_at", sa.Double(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_condemned")),
    )
    duties = op.create_table(
        "duties",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duties")),
    )
    op.bulk_insert(duties, [{"name": "upkeep"}])


def downgrade() -> None:
    op.drop_table("duties")
    op.drop_table("condemned")
    op.drop_index(op.f("ix_artifacts_sha256"), table_name="artifacts")
    op.drop_column("attempts", "error_fault")
    for column in ("held_until", "artifacts_removed_at", "stage_deadline_at", "stage_deadline_seconds", "error_fault"):
        op.drop_column("jobs", column)
