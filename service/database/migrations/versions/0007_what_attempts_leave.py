"""Indexes on what goes with an attempt: a job is removed without a look at the events and files of all others."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ACCEPTED = sa.table("accepted_revisions", sa.column("revision", sa.String))


def upgrade() -> None:
    for table in ("events", "artifacts"):
        op.create_index(op.f(f"ix_{table}_attempt_id"), table, ["attempt_id"], unique=False)
    # Code of the step before works on it as well.
    op.bulk_insert(_ACCEPTED, [{"revision": "0007"}])


def downgrade() -> None:
    op.execute(sa.delete(_ACCEPTED).where(_ACCEPTED.c.revision == "0007"))
    for table in ("artifacts", "events"):
        op.drop_index(op.f(f"ix_{table}_attempt_id"), table_name=table)
