"""Out-of-distribution (OOD) detection: outlier exposure in training, the fit of the OOD score, and
measurements of how many OOD clips are answered."""
