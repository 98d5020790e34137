"""What runs have learned: ranks, spectra and directions of their updates."""
