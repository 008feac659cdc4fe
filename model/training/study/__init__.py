"""Studies: `scmrl study` trains variants of a network alike and compares what they answer."""
