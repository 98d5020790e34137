"""What a trained run is worth: answers, likelihoods, metrics and their summaries."""
