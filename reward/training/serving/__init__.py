"""Parts of the server of reward models (`serve.py`): its process, and the models that it has loaded."""
