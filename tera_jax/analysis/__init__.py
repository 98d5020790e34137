"""What an update is: its spectrum and ranks, its directions beside the base's, the paper's bounds.

Functions of arrays in float64, on the host. ΔW is given as it follows from d and the frozen arrays:
a difference of rounded weights has full rank whatever the method.
"""
