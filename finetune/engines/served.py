"""Runs that use models on endpoints: their declarations in the run directory, and their keys."""

import os
from collections.abc import Mapping
from typing import Any

from finetune.endpoints import Endpoint, EndpointProblem
from finetune.engines import generation
from finetune.engines.remote import FILE, key_of, read_endpoint
from finetune.models import Model
from finetune.registry import endpoint_named, model_of
from recipes.errors import RecipeError
from recipes.rundir import RunDir, write_json
from runs.kinds import CannotRun
from runs.models import Run


def endpoint_of(model: Model) -> Endpoint:
    """Return the declaration of the model's endpoint. Raises CannotRun."""
    if not model.endpoint:
        raise CannotRun(f"{model} is not on an endpoint. Choose a model that an endpoint serves.")
    try:
        endpoint = endpoint_named(model.endpoint)
    except EndpointProblem as problem:
        raise CannotRun(str(problem)) from None
    if not endpoint.offers(model.base):
        raise CannotRun(
            f"The declaration of the endpoint {endpoint.name} does not allow the model {model.base}."
        )
    return endpoint


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    model = generation.checked_model(inputs)
    return {"endpoint": endpoint_of(model).name, "model": model.base}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    endpoint = endpoint_of(model_of(run.inputs))
    facts = generation.prepare(run, run_dir)
    write_endpoint(run_dir, endpoint)
    return {**facts, "endpoint_url": endpoint.url}


def write_endpoint(run_dir: RunDir, endpoint: Endpoint, file: str = FILE) -> None:
    """Write the declaration of an endpoint to data/, without its key. `file` is endpoint*.json."""
    write_json(run_dir.data / file, endpoint.to_dict())


def variables(run: Run, run_dir: RunDir) -> dict[str, str]:
    """Return the keys of the endpoints that the run uses, by environment variable.

    Raises CannotRun if a key is not set here, or if the operator has removed an endpoint or changed its
    address since the run was prepared.
    """
    values = {}
    for path in sorted(run_dir.data.glob("endpoint*.json")):
        try:
            endpoint = read_endpoint(path)
            current = endpoint_named(endpoint.name)
            key = key_of(current)
        except (RecipeError, EndpointProblem) as error:
            raise CannotRun(str(error)) from None
        if (current.url, current.key_variable) != (endpoint.url, endpoint.key_variable):
            raise CannotRun(
                f"The endpoint {endpoint.name} has another address or key variable than when the run "
                "was prepared. Start a new run."
            )
        if key:
            values[current.key_variable] = os.environ[current.key_variable]
    return values
