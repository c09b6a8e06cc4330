"""The view of the GraphQL endpoint. It answers only requests with a token that may read."""

import json
import logging
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from graphql import GraphQLError, GraphQLSyntaxError, parse
from strawberry.types import ExecutionResult

from accounts.api import READ, Problem
from api.graphql.limits import MOST_BYTES, MOST_TOKENS, TooExpensive, check_cost
from api.graphql.schema import Refused, schema
from api.limits import TOO_LARGE, limited
from labeling.core.text import storable

log = logging.getLogger("tiebreak.api")

FAILED = "The server failed. Its log has the reason."
LISTED = 10


@csrf_exempt
@limited
def graphql(request: HttpRequest) -> HttpResponseBase:
    """Answer a query in the body {"query", "variables", "operationName"}."""
    try:
        return _answer(request)
    except Problem as problem:
        return problem.response()
    except RequestDataTooBig:
        return Problem(413, TOO_LARGE).response()
    except UnreadablePostError:
        return Problem(400, "The request's body could not be read. Send it again.").response()


def _answer(request: HttpRequest) -> HttpResponse:
    token = READ(request)
    if token is None:
        raise Problem(401, "Send a token: Authorization: Bearer KEY.")
    request.auth = token  # type: ignore[attr-defined]
    if request.method != "POST":
        problem = Problem(405, "Use POST at this address.").response()
        problem["Allow"] = "POST"
        return problem
    query, variables, name = _parsed(request)
    try:
        check_cost(parse(query, max_tokens=MOST_TOKENS), variables)
    except GraphQLSyntaxError as error:
        return JsonResponse({"errors": [error.formatted]}, status=400)
    except (TooExpensive, RecursionError) as error:
        text = str(error) if isinstance(error, TooExpensive) else "The query is nested too deeply."
        return JsonResponse({"errors": [{"message": text}]}, status=400)
    result = schema.execute_sync(
        query, variable_values=variables, operation_name=name, context_value={"request": request}
    )
    return _response(result)


def _parsed(request: HttpRequest) -> tuple[str, dict[str, Any], str | None]:
    """Return the query, its variables and the name of the operation. Raises Problem."""
    if len(request.body) > MOST_BYTES:
        raise Problem(413, f"A query has at most {MOST_BYTES:,} bytes.")
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Problem(400, "The request's body is not valid JSON.") from None
    if not isinstance(body, dict) or not isinstance(body.get("query"), str):
        raise Problem(422, 'The body must be an object with the text "query".')
    variables, name = body.get("variables") or {}, body.get("operationName")
    if not isinstance(variables, dict) or not isinstance(name, str | None):
        raise Problem(422, '"variables" must be an object, and "operationName" text.')
    if storable(text := json.dumps([body["query"], variables], ensure_ascii=False)) != text:
        raise Problem(422, "The query has a character that cannot be stored.")
    if "\\u0000" in text:
        raise Problem(422, "The query has a null character. Remove it.")
    return body["query"], variables, name


def _response(result: ExecutionResult) -> HttpResponse:
    content: dict[str, Any] = {"data": result.data}
    if result.errors:
        content["errors"] = [_explained(error) for error in result.errors[:LISTED]]
    status = 400 if result.errors and result.data is None else 200
    return JsonResponse(content, status=status)


def _explained(error: GraphQLError) -> dict[str, Any]:
    """Return an error for the sender. The reasons of unexpected ones are only in the log."""
    cause = error.original_error
    if cause is None or isinstance(cause, GraphQLError | Refused):
        return dict(error.formatted)
    if isinstance(cause, PermissionDenied):
        return {**error.formatted, "message": str(cause) or "You may not see this."}
    log.error("A GraphQL query failed at %s", error.path, exc_info=cause)
    return {**error.formatted, "message": FAILED}
