"""The pages of snapshots and reward models."""
