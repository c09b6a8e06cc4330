"""Parts of the server of reward models (`serve.py`): its process and its loaded models."""
