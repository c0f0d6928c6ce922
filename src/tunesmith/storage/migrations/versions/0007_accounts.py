"""Accounts, whose things are, and the log of changes."""

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue, UtcDateTime

revision = "0007_accounts"
down_revision = "0006_activity"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _users()
    _ways_in()
    _audit_log()
    _owners()


def _users() -> None:
    """Who there is, and what they have used."""
    op.create_table(
        "users",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("username", sa.String(64), nullable=False),
        sa.Column("email", sa.String(254)),
        sa.Column("full_name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("password_hash", sa.String(255)),
        sa.Column("oidc_subject", sa.String(600), unique=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("quota_storage_bytes", sa.BigInteger()),
        sa.Column("quota_jobs", sa.Integer()),
        sa.Column("quota_gpu_hours", sa.Float()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_login_at", UtcDateTime()),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_users_name", "users", [sa.text("lower(username)")], unique=True)
    op.create_index("uq_users_email", "users", [sa.text("lower(email)")], unique=True)
    op.create_table(
        "past_gpu_use",
        sa.Column("user_id", BIG, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("gpu_seconds", sa.Float(), nullable=False),
    )


def _ways_in() -> None:
    """Logins, keys and links."""
    op.create_table(
        "logins",
        sa.Column("id", sa.String(36), primary_key=True, nullable=False),
        sa.Column("user_id", BIG, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_used_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
    )
    op.create_index("ix_logins_user_id", "logins", ["user_id"])
    op.create_index("ix_logins_expires_at", "logins", ["expires_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("user_id", BIG, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False, unique=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("scopes", JsonValue, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("last_used_at", UtcDateTime()),
        sa.Column("last_used_from", sa.String(64)),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    op.create_table(
        "account_links",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("user_id", BIG, sa.ForeignKey("users.id", ondelete="CASCADE")),
        sa.Column("role", sa.String(10)),
        sa.Column("email", sa.String(254)),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sqlite_autoincrement=True,
    )


def _audit_log() -> None:
    """The log of changes, with what it is searched by."""
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger(), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("username", sa.String(64), nullable=False),
        sa.Column("via", sa.String(10), nullable=False),
        sa.Column("credential", sa.String(80), nullable=False),
        sa.Column("action", sa.String(80), nullable=False),
        sa.Column("objects", JsonValue, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("result", sa.String(10), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_audit_log_username", "audit_log", ["username", "seq"])
    op.create_index("ix_audit_log_action", "audit_log", ["action", "seq"])
    op.create_index("ix_audit_log_at", "audit_log", ["at"])


def _owners() -> None:
    """Whose things are; only lines may be added to the log."""
    op.add_column("jobs", sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    for table in ("datasets", "jobs", "uploads", "ratings"):
        op.add_column(table, sa.Column("owner_id", BIG))
        op.add_column(table, sa.Column("owner", sa.String(64)))
        op.add_column(table, sa.Column("visibility", sa.String(10), nullable=False, server_default="private"))
        op.create_index(f"ix_{table}_owner_id", table, ["owner_id"])
    _append_only()


def _append_only() -> None:
    """Lines of the audit log are neither changed nor taken away."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_log_no_{verb.lower()} BEFORE {verb} ON audit_log "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
