"""Studies of several runs: methods compared on one model and any data, each at its best rate."""
