"""The paper's experiments: how cells are hidden, what a score has to beat, and how every method is scored alike."""
