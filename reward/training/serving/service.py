"""The service of reward models on the model server.

This module does not need torch until the first request.
"""

from math import nan
from typing import Any

from serving.client import Scores
from serving.protocol import models_pb2 as pb
from serving.protocol import models_pb2_grpc
from serving.server.calls import deadline, import_later, mailbox
from serving.server.engine import Engine, JobError


class RewardModels(models_pb2_grpc.RewardModelsServicer):
    """The service `RewardModels` of the protocol."""

    def __init__(self, engine: Engine):
        self.engine = engine

    async def Score(  # noqa: N802  # the name of the method in the protocol
        self, request: pb.ScoreRequest, context: Any
    ) -> pb.ScoreReply:
        check(request)
        scoring = await import_later("reward.training.serving.scoring")
        replies, emit = mailbox()
        job = scoring.Scoring(
            request.model,
            [
                (
                    [{"role": turn.role, "content": turn.content} for turn in each.prompt],
                    list(each.responses),
                )
                for each in request.conversations
            ],
            until=deadline(context),
            emit=emit,
        )
        self.engine.submit(job)
        try:
            reply = await replies.get()
        finally:
            job.cancelled = True
        if isinstance(reply, JobError):
            raise reply
        return message_of(reply)


def check(request: pb.ScoreRequest) -> None:
    """Raise JobError for a request that no model can answer."""
    turns = [turn for each in request.conversations for turn in each.prompt]
    problems = {
        "The request names no model.": not request.model,
        "The request has no conversations.": not request.conversations,
        "A conversation has no prompt.": not all(each.prompt for each in request.conversations),
        "A conversation has no responses.": not all(
            each.responses for each in request.conversations
        ),
        "A message has no role.": not all(turn.role for turn in turns),
    }
    for problem, present in problems.items():
        if present:
            raise JobError("INVALID_ARGUMENT", problem)


def message_of(scores: Scores) -> pb.ScoreReply:
    def numbers(values: list[float | None]) -> list[float]:
        return [nan if value is None else value for value in values]

    return pb.ScoreReply(
        verdicts=[
            pb.Verdict(scores=numbers(verdict.scores), uncertainties=numbers(verdict.uncertainties))
            for verdict in scores.verdicts
        ],
        limit=scores.limit,
        forwarded=scores.forwarded,
    )
