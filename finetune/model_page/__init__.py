"""The content of a model's page, except its evaluations: facts, licence, usage and derived models."""
