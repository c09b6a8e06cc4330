"""Generation of responses: which prompts are answered, and how answers are stored.

Start with `generation.py`. `sampled_text.py` is the file format shared with the recipes.
"""
