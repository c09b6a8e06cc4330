import os

# Threads that wait by spinning slow a recipe six times down on a machine with other work; read
# by OpenMP when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
