"""The model server: language models and reward models that stay in memory, over gRPC.

    python -m finetune.training.serve unix:/path/to/models.sock

serving/protocol/models.proto defines the messages. The service of chats is in finetune/training/serving/,
the one of scores in reward/training/serving/, and what both share in serving/server/.

- A request names its model. torch is imported, and the model loaded, at the first request.
- Models fill up to three quarters of `--memory`. If a further one needs room, those that were unused for
  longest are removed. A request that needs more memory is refused.
- The process replaces itself with a new one on the same address after `--idle` seconds without a request,
  and if its memory was full. This frees all memory; clients connect again by themselves.
- On a CPU, torch uses all cores but one, so that the web server on the same machine stays fast: threads that
  share a core with another process wait for each other. OMP_NUM_THREADS sets another number.
- An address that other machines can reach needs TLS (`--certificate` and `--key`) and a shared token in
  TIEBREAK_MODEL_SERVER_TOKEN. Health checks need no token.
- On SIGTERM, current answers end with an error, and the process ends.
"""

import os
import sys

from finetune.training.serving.service import LanguageModels
from reward.training.serving.service import RewardModels
from serving.protocol import models_pb2_grpc as services
from serving.server.engine import Limits
from serving.server.memory import MB, ModelMemory
from serving.server.process import HostedService, half_of_memory, limit_memory, main

SERVICES = [
    HostedService(
        "tiebreak.serving.LanguageModels",
        lambda engine, server: services.add_LanguageModelsServicer_to_server(
            LanguageModels(engine), server
        ),
    ),
    HostedService(
        "tiebreak.serving.RewardModels",
        lambda engine, server: services.add_RewardModelsServicer_to_server(
            RewardModels(engine), server
        ),
    ),
]


def make_memory(limits: Limits) -> ModelMemory:
    """Return the memory for models. This imports torch, and limits the memory of the process."""
    import torch

    from recipes.machine.memory import free_memory, is_out_of_memory
    from recipes.runner import quiet_libraries

    quiet_libraries()
    torch.set_grad_enabled(False)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        megabytes = limits.memory or torch.cuda.mem_get_info()[1] // MB
    else:  # CUDA reserves more address space than it uses
        megabytes = limits.memory or half_of_memory()
        limit_memory(megabytes)
    return ModelMemory(
        megabytes, free=free_memory, is_out_of_memory=is_out_of_memory, limits_process=not on_gpu
    )


if __name__ == "__main__":
    sys.exit(main("finetune.training.serve", __doc__ or "", SERVICES, make_memory))
