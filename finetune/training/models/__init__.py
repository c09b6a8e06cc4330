"""The language models of these recipes: loading, adapters and log-probabilities."""
