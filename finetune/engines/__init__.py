"""Generation of responses: the choice of the prompts, and the storage of the answers.

Start with `generation.py`. `sampled_text.py` describes the files that are shared with the recipes.
"""
