"""Still pictures and animations."""
