"""The health check at `/health/`, and a client for it: `python -m config.web.health URL`."""

import os
import sys
from urllib.error import URLError
from urllib.request import Request, urlopen

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse

from config.web.outage import is_outage, state, unavailable


def health(request: HttpRequest) -> HttpResponse:
    """Return "ok", or 503 if the database does not answer. Anyone may request this. Costs one query."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        if is_outage(error):
            state.note_outage(error)
        return unavailable(request)
    return HttpResponse("ok", content_type="text/plain")


def main(url: str) -> int:
    if not url.startswith(("http://", "https://")):
        print(f"{url} is not a web address.", file=sys.stderr)
        return 2
    host = os.environ.get("TIEBREAK_ALLOWED_HOSTS", "").split(",")[0].strip() or "localhost"
    # Imitate the proxy, so that the site accepts the host name and does not redirect to HTTPS.
    request = Request(url, headers={"Host": host, "X-Forwarded-Proto": "https"})  # noqa: S310
    try:
        with urlopen(request, timeout=4) as answer:  # noqa: S310 - the scheme was checked
            return 0 if answer.status == 200 else 1
    except (URLError, TimeoutError) as error:
        print(f"{url} does not answer: {error}.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
