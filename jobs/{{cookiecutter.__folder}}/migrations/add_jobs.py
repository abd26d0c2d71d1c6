"""Add jobs.

Revision: <revision>, after <before>. Made: <time>.
"""

from pathlib import Path

from alembic import op

revision = "<revision>"
down_revision = "<before>"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    script = Path(__file__).with_name("pgqueuer.sql").read_text()
    op.execute(f"DO $do$ BEGIN\n{script}\nEND $do$")  # one statement, as the driver requires


def downgrade() -> None:
    """Undo it."""
    op.execute("DROP TABLE pgqueuer, pgqueuer_log, pgqueuer_schedules, pgqueuer_statistics")
    op.execute("DROP FUNCTION fn_pgqueuer_changed")
    op.execute("DROP TYPE pgqueuer_status")
