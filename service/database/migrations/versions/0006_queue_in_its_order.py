"""The queue's index in the order in which jobs start, so that the first is found without sorting all that wait."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ACCEPTED = sa.table("accepted_revisions", sa.column("revision", sa.String))


def upgrade() -> None:
    op.drop_index("ix_jobs_queue", table_name="jobs")
    op.create_index("ix_jobs_queue", "jobs", ["status", sa.text("priority DESC"), "created_at", "id"], unique=False)
    # Code of the step before works on it as well.
    op.bulk_insert(_ACCEPTED, [{"revision": "0006"}])


def downgrade() -> None:
    op.execute(sa.delete(_ACCEPTED).where(_ACCEPTED.c.revision == "0006"))
    op.drop_index("ix_jobs_queue", table_name="jobs")
    op.create_index("ix_jobs_queue", "jobs", ["status", "priority", "created_at", "id"], unique=False)
