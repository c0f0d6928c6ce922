"""Alembic's entry: runs the migrations in one transaction on the engine that `Database.migrate` hands over."""

from alembic import context

engine = context.config.attributes["engine"]
with engine.connect() as connection:
    context.configure(
        connection=connection, render_as_batch=True, transactional_ddl=True, transaction_per_migration=False
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Servers that start together migrate one after another.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7461001)")
        context.run_migrations()
    connection.commit()
