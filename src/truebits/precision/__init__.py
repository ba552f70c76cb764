"""Count once, answer everything: what precision a tensor really has, and what it was before."""
