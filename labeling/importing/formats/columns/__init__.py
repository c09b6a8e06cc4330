"""Files whose rows have columns: what the columns mean, and the reader that goes by it.

`mapping` holds what each column means, `proposals` works it out from the first rows, `reader` reads
by it. A user may change a proposal, on the page or with `--map`.
"""
