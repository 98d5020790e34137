"""The steps of a training, and the loss that they take the gradient of."""
