"""One readable file per method, to hold beside its paper. They never import one another."""
