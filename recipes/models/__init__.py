"""Models and what comes with them: loading, chat templates, quantization and references.

Start with `loading.py`.
"""
