"""Array functions with a kernel of their own on a GPU, and the arithmetic that they share."""
