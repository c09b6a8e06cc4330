"""Generation of responses: the choice of the prompts, and the storage of the answers.

Start with `generation.py`. `engine.py` is the interface of the engines. `endpoint.py` is the one for OpenAI-compatible servers, which `remote.py` asks, with a `journal.py`; those for models on this machine are in `finetune/training/sampling/`. `sampled_text.py` describes the files that are shared with the recipes.
"""
