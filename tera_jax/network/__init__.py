"""TeRA's algebra: a Tucker-like network of a core and factors, and how it is contracted."""
