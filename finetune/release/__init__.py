"""The release of models: pushing them to a hub, pulling them from one, and registering them."""
