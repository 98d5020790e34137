"""Generation with a cache: greedy, sampled, and by beam search."""
