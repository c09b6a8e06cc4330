"""The parts of `benchmarks.soak`: short runs on real workers, faults, and the rules that must hold."""
