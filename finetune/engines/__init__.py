"""Generation of responses: the choice of prompts, and the storage of the answers.

Start with `generation.py`. `sampled_text.py` is the file format shared with the recipes.
"""
