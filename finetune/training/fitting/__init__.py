"""The training of a policy on prepared groups, its reference and its evaluation."""
