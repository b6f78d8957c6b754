"""Which versions may work on this schema: each step after this one enters itself, and removes those that it ends."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    accepted = op.create_table(
        "accepted_revisions",
        sa.Column("revision", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_accepted_revisions")),
    )
    # Not those before: their code does not ask.
    op.bulk_insert(accepted, [{"revision": revision}])


def downgrade() -> None:
    op.drop_table("accepted_revisions")
