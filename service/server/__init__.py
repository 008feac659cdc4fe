"""HTTP connections: how many, for how long, and what work each may cause."""
