import os

# Threads that spin while they wait make a recipe six times slower on a busy machine. OpenMP reads
# this variable when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
