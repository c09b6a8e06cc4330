"""The language models of the recipes: loading, adapters and log-probabilities."""
