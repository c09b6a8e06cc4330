"""The protocol of the model server, and the modules that protoc generates from `models.proto`."""
