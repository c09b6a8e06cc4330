"""Fine-tuning methods, one module each."""
