"""Searches and their trials; what is leased may be a search."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With defaults of the server's: jobs that are there stay what they are, and an older version can go on queuing.
    op.add_column("jobs", sa.Column("kind", sa.String(length=16), nullable=False, server_default="job"))
    op.add_column("jobs", sa.Column("slots", sa.Integer(), nullable=False, server_default="1"))
    op.create_table(
        "searches",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("best", sa.Integer(), nullable=True),
        sa.Column("frontier", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_searches_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
    )
    op.create_table(
        "trials",
        sa.Column("search_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("point", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reports", sa.JSON(), nullable=False),
        sa.Column("finished", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ended_as", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_trials_search_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_trials")),
    )
    op.create_index(op.f("ix_trials_search_id_ended_as"), "trials", ["search_id", "ended_as"], unique=False)


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE kind = 'search'")  # an older version would take them for jobs
    op.drop_index(op.f("ix_trials_search_id_ended_as"), table_name="trials")
    op.drop_table("trials")
    op.drop_table("searches")
    op.drop_column("jobs", "slots")
    op.drop_column("jobs", "kind")
