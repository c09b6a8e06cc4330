"""Tests of connections that the database dropped, as in a restart."""

import psycopg
from django.db import connection

from accounts.models import User
from tests.worker import database_url


def test_the_first_request_after_a_restart_of_the_database_gets_a_live_connection(
    transactional_db,
):
    connection.close()
    connection.close_pool()
    assert not User.objects.exists()
    connection.close()  # returns it to the pool
    with psycopg.connect(database_url(), autocommit=True) as other:
        (dropped,) = other.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert dropped
    assert not User.objects.exists()
