"""Still pictures and animated WebP."""
