"""Mamba-2's layer: a state space whose steps, inputs and outputs are chosen by the input."""
