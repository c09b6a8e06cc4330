"""Preference data: groups of responses in plain files, their tokens, and the losses over them."""
