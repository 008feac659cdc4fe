"""From a clip to an answer, without HTTP."""
