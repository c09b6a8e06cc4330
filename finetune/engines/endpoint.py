"""The engine `endpoint`: a model on an OpenAI-compatible server."""

from finetune.endpoints import Endpoint
from finetune.engines.engine import Request
from finetune.engines.journal import Replies, Reply, Usage
from finetune.engines.remote import SEEDS, Question, Sampling, ask_all
from recipes.rundir import RunDir
from recipes.stopping import StopSignal


class EndpointEngine:
    """A model on an endpoint. After `sample`, `replies` has the usage, and the reasons for missing replies.

    The server applies its own chat template, and repeats a response to the same seed only if it can.
    """

    name = "endpoint"

    def __init__(self, endpoint: Endpoint, model: str, sampling: Sampling):
        self.endpoint = endpoint
        self.model = model
        self.sampling = sampling
        self.replies = Replies({}, {}, Usage())

    def sample(
        self, requests: list[Request], *, run_dir: RunDir, name: str, stop: StopSignal
    ) -> dict[tuple[str, int], Reply]:
        """Return the replies. Those in the journal `name` of an interrupted run are not asked again.

        Requests without a reply are missing. Raises Stopped, or RecipeError if the server is unusable.
        """
        questions = {request.key: question_of(request) for request in requests}
        self.replies = ask_all(
            list(questions.values()),
            endpoint=self.endpoint,
            model=self.model,
            sampling=self.sampling,
            run_dir=run_dir,
            name=name,
            stop=stop,
        )
        replies = self.replies.replies
        return {
            key: replies[question.key]
            for key, question in questions.items()
            if question.key in replies
        }


def question_of(request: Request) -> Question:
    """Return the question of a request. Its seed is that of the request, below 2³¹."""
    name = f"{request.prompt.prompt_id}/{request.sample}"
    return Question(name, request.prompt.messages, request.seed % SEEDS)
