"""Announce events: one row per endpoint that listens, in the transaction of the event.

If nobody listens, an announcement costs one statement that reads an index and writes nothing.
Submitting a ranking costs no statement of its own: labeling.queue.filling includes LISTENERS.
"""

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from database.statements import fetch

INSERT = """
INSERT INTO webhooks_delivery (endpoint_id, key, event, subject, data, attempts, error, created_at)
SELECT endpoint.id, gen_random_uuid(), {event}, {subject}, {data}, 0, '', now()
FROM webhooks_endpoint endpoint{source}
WHERE endpoint.project_id = {project} AND endpoint.active AND {event} = ANY(endpoint.events)
ON CONFLICT DO NOTHING
"""
"""Inserts the deliveries of an event. The placeholders are SQL expressions."""

_ANNOUNCE = (
    INSERT.format(
        event="%(event)s::text",
        subject="%(subject)s::text",
        data="%(data)s::jsonb",
        project="%(project)s::bigint",
        source="",
    )
    + "RETURNING id"
)


def announce(*, project: int | None, event: str, subject: object, data: Mapping[str, Any]) -> int:
    """Add a delivery for each endpoint of the project that listens; return their number.

    `subject` identifies what the event is about, so that it is announced once. Call it in the
    transaction of the event. Costs one statement.
    """
    values = {
        "project": project,
        "event": event,
        "subject": str(subject)[:80],
        "data": Jsonb(dict(data)),
    }
    return len(fetch(_ANNOUNCE, values))
