"""The training of a policy on prepared groups, with its reference and its evaluation."""
