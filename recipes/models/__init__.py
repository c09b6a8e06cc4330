"""Models: their loading, chat templates, quantization, adapters and references.

Start with `loading.py`.
"""
