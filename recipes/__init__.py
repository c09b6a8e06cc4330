"""The parts of training programs that do not need Django: run directories, data, layouts, models.

Nothing here imports Django, Celery or a database driver.
"""

import os

# Set here because huggingface_hub reads its variable once, when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
