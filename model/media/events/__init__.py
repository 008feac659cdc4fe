"""Events of event cameras and of silicon cochleas: file formats to arrays; no torch."""
