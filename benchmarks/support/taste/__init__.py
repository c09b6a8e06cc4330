"""The simulated taste of `benchmarks/taste.py`: its world, the data of its arms, and its figures."""
