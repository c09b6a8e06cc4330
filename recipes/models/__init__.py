"""Loading models and tokenizers safely."""
